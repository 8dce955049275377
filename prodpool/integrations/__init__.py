"""Pools in the servers and frameworks that services run on.

A module imports what it is named after, if that is a framework: `pip install "prodpool[flask]"` brings it.
"""
