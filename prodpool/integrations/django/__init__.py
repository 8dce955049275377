"""Django: refused work is answered with 429 or 503, and tasks leave no database connection open too long."""
