"""Pools in the servers and frameworks that services run on.

A module imports the framework that it serves; those for gunicorn, WSGI and ASGI import none. The extra of the
same name installs it, as in `pip install "prodpool[flask]"`.

A *refusal* is a RejectedError or a TaskExpiredError.
"""
