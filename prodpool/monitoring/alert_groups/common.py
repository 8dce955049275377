"""What several alerts have in common: the panels that show them, and how a text names the place."""

from __future__ import annotations

from prodpool.monitoring.model import PanelLink

OVERVIEW, ONE_POOL = "prodpool-overview", "prodpool-pool"
QUEUE_PANEL = PanelLink(ONE_POOL, 21, "Queue", repeated=True)
OLDEST_PANEL = PanelLink(ONE_POOL, 23, "Oldest queued, longest running", repeated=True)
RESULTS_PANEL = PanelLink(ONE_POOL, 32, "Finished, by result")
REASONS_PANEL = PanelLink(ONE_POOL, 33, "Dropped, by reason")
BUSY_PANEL = PanelLink(ONE_POOL, 34, "Utilisation, by instance")
DWELL_PANEL = PanelLink(ONE_POOL, 41, "Dwell: time in the queue")
DURATION_PANEL = PanelLink(ONE_POOL, 42, "Duration: time of the run")
HUNG_PANEL = PanelLink(OVERVIEW, 63, "Hung tasks")
BREAKER_PANEL = PanelLink(ONE_POOL, 61, "Breaker")
OPEN_PANEL = PanelLink(ONE_POOL, 62, "Open or stopped")
REBUILDS_PANEL = PanelLink(ONE_POOL, 63, "Backend rebuilds")
LOST_PANEL = PanelLink(ONE_POOL, 64, "Workers started and lost")
FULL_PANEL = PanelLink(OVERVIEW, 33, "Time until full")
DELAY_PANEL = PanelLink(OVERVIEW, 71, "Scheduling delay")
DESCRIPTORS_PANEL = PanelLink(OVERVIEW, 73, "File descriptors")
ATTEMPTS_PANEL = PanelLink(ONE_POOL, 35, "Offered and admitted")
OFFERED_PANEL = PanelLink(OVERVIEW, 21, "Offered, finished, dropped")

WHERE = "Pool {{ $labels.pool }} of {{ $labels.job }}"
PROCESS = "Process {{ $labels.instance }} of {{ $labels.job }}"
EXACTLY = "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}"
