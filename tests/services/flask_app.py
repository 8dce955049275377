"""A Flask application over `busy_pool`: served by the tests beside it. Its views are those of a blueprint."""

from __future__ import annotations

from flask import Blueprint, Flask

from prodpool.integrations.flask import FlaskRefusals
from tests.services.busy_pool import submit

refusals = FlaskRefusals()
views = Blueprint("views", __name__)


@views.get("/<task>")
def accept(task: str) -> tuple[str, int]:
    """Submit a task."""
    submit(f"/{task}")
    return "accepted", 202


def create_app() -> Flask:
    """Build the application."""
    app = Flask(__name__)
    refusals.init_app(app)
    app.register_blueprint(views)
    return app


application = create_app()
