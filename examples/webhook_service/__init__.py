"""A webhook delivery service on one `prodpool` pool, and a demonstration of its bad days.

Read it in this order:

- `delivery`: what one task does. `intake`: HTTP in, and what a refusal becomes. `service`: the pool, and
  stopping.
- `servers`, `observability`, `arguments`: the bounded HTTP server; logs, spans and the metrics port; the
  command line.
- `customers`, `traffic`: the two ends of the world, both on loopback.
- `scrape`, `report`, `acts`, `screen`, `closing`, `demo`: reading the metrics, judging them, and the play in
  seven acts. `prometheus`, `alerts`: which of the project's alerts each act sets off.
"""
