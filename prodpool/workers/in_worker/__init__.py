"""What runs inside a worker process. It imports nothing from the other folders of ``workers``."""
