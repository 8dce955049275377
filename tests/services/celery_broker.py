"""Celery's broker in a folder, for a worker and for who gives it tasks."""

from __future__ import annotations

from pathlib import Path

from celery import Celery

INBOX = "inbox"
OUTBOX = "outbox"


def configured(folder: Path) -> Celery:
    """Return an application that reads messages from the inbox and writes them to the outbox.

    The broker writes a message in the place where it may be read before it is whole. So who sends one moves
    it from the outbox to the inbox when it is.
    """
    inbox, outbox, processed, control = (folder / name for name in (INBOX, OUTBOX, "processed", "control"))
    for each in (inbox, outbox, processed, control):
        each.mkdir(parents=True, exist_ok=True)
    app = Celery("prodpool", broker="filesystem://")
    app.conf.update(
        broker_transport_options={
            "data_folder_in": str(inbox),
            "data_folder_out": str(outbox),
            "processed_folder": str(processed),
            "store_processed": True,
            "control_folder": str(control),
            "polling_interval": 0.02,
        },
        # As many messages at a time as there are children to work on them.
        worker_prefetch_multiplier=1,
        # The log is the one that the application has set up.
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app
