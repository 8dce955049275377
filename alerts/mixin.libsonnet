// Written by `prodpool export`: change a threshold with its options, not here.
// The same rules as a mixin: (import 'mixin.libsonnet') + { ... }
{
  prometheusAlerts+:: {
    "groups": [
      {
        "name": "prodpool",
        "rules": [
          {
            "alert": "PoolQueueGrowing",
            "expr": "max by (job, instance, pool) (min_over_time(workerpool_queue_depth[1m])) > 1000\nor\n(\n  max by (job, instance, pool) (min_over_time(workerpool_queue_depth[1m]))\n  > 0.5 * max by (job, instance, pool) (max_over_time(workerpool_queue_capacity[1m]))\n  unless\n  max by (job, instance, pool) (min_over_time(workerpool_queue_depth[1m]))\n  > 0.8 * max by (job, instance, pool) (max_over_time(workerpool_queue_capacity[1m]))\n)",
            "for": "5m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "The queue of pool {{ $labels.pool }} has grown long",
              "description": "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}: {{ $value | humanize }} tasks wait.",
              "runbook_url": "runbook.md#poolqueuegrowing",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&var-pool={{ $labels.pool | urlquery }}"
            }
          },
          {
            "alert": "PoolStopped",
            "expr": "max by (job, instance, pool) (min_over_time(workerpool_stopped[1m])) == 1\nand\nsum by (job, instance, pool) (increase(workerpool_dropped_total{reason=\"closed\"}[5m])) > 0",
            "for": "1m",
            "labels": {
              "component": "workerpool",
              "severity": "critical"
            },
            "annotations": {
              "summary": "Pool {{ $labels.pool }} is stopped and still offered work",
              "description": "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }} is stopped, refuses whatever it is offered, and its process goes on.",
              "runbook_url": "runbook.md#poolstopped",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=62"
            }
          },
          {
            "alert": "PoolPanicRate",
            "expr": "sum by (job, pool) (rate(workerpool_completed_total{result=\"panic\"}[5m])) > 0.1",
            "for": "5m",
            "labels": {
              "component": "workerpool",
              "severity": "critical"
            },
            "annotations": {
              "summary": "Tasks of pool {{ $labels.pool }} panic",
              "description": "Pool {{ $labels.pool }} of {{ $labels.job }}: {{ $value | humanize }} tasks per second panic.",
              "runbook_url": "runbook.md#poolpanicrate",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=32"
            }
          },
          {
            "alert": "PoolDropping",
            "expr": "sum by (job, pool) (\n  rate(workerpool_dropped_total{reason!~\"cancelled|closed|shutdown\"}[5m])\n) > 0",
            "for": "5m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "Pool {{ $labels.pool }} drops tasks",
              "description": "Pool {{ $labels.pool }} of {{ $labels.job }}: {{ $value | humanize }} tasks per second are refused or expire.",
              "runbook_url": "runbook.md#pooldropping",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=33"
            }
          },
          {
            "alert": "PoolSlowTasks",
            "expr": "histogram_quantile(\n  0.99, sum by (job, pool, le) (rate(workerpool_task_duration_seconds_bucket[5m]))\n) > 5",
            "for": "10m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "Tasks of pool {{ $labels.pool }} run for more than 5 seconds",
              "description": "Pool {{ $labels.pool }} of {{ $labels.job }}: one task in a hundred runs for {{ $value | humanizeDuration }} or more.",
              "runbook_url": "runbook.md#poolslowtasks",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=42"
            }
          }
        ]
      },
      {
        "name": "prodpool-budget",
        "rules": [
          {
            "alert": "PoolErrorBudgetBurn1h",
            "expr": "pool:workerpool_bad:ratio_rate1h > 14.4 * 0.005\nand\npool:workerpool_bad:ratio_rate5m > 14.4 * 0.005\nand\npool:workerpool_ended:increase1h >= 100",
            "for": "2m",
            "labels": {
              "component": "workerpool",
              "severity": "critical"
            },
            "annotations": {
              "summary": "Pool {{ $labels.pool }} spends its error budget 14.4 times too fast",
              "description": "{{ $value | humanizePercentage }} of what pool {{ $labels.pool }} of {{ $labels.job }} was given in the last hour failed or was lost; 0.5 % may.",
              "runbook_url": "runbook.md#poolerrorbudgetburn1h",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=52"
            }
          },
          {
            "alert": "PoolErrorBudgetBurn6h",
            "expr": "pool:workerpool_bad:ratio_rate6h > 6 * 0.005\nand\npool:workerpool_bad:ratio_rate30m > 6 * 0.005\nand\npool:workerpool_ended:increase6h >= 100",
            "for": "15m",
            "labels": {
              "component": "workerpool",
              "severity": "critical"
            },
            "annotations": {
              "summary": "Pool {{ $labels.pool }} spends its error budget 6 times too fast",
              "description": "{{ $value | humanizePercentage }} of what pool {{ $labels.pool }} of {{ $labels.job }} was given in the last 6 hours failed or was lost; 0.5 % may.",
              "runbook_url": "runbook.md#poolerrorbudgetburn6h",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=52"
            }
          }
        ]
      },
      {
        "name": "prodpool-budget-slow",
        "interval": "2m",
        "rules": [
          {
            "alert": "PoolErrorBudgetBurn1d",
            "expr": "pool:workerpool_bad:ratio_rate1d > 3 * 0.005\nand\npool:workerpool_bad:ratio_rate2h > 3 * 0.005\nand\npool:workerpool_ended:increase1d >= 100",
            "for": "1h",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "Pool {{ $labels.pool }} spends its error budget 3 times too fast",
              "description": "{{ $value | humanizePercentage }} of what pool {{ $labels.pool }} of {{ $labels.job }} was given in the last day failed or was lost; 0.5 % may.",
              "runbook_url": "runbook.md#poolerrorbudgetburn1d",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=52"
            }
          },
          {
            "alert": "PoolErrorBudgetBurn3d",
            "expr": "pool:workerpool_bad:ratio_rate3d > 1 * 0.005\nand\npool:workerpool_bad:ratio_rate6h > 1 * 0.005\nand\npool:workerpool_ended:increase3d >= 100",
            "for": "3h",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "Pool {{ $labels.pool }} spends all of its error budget",
              "description": "{{ $value | humanizePercentage }} of what pool {{ $labels.pool }} of {{ $labels.job }} was given in the last 3 days failed or was lost; 0.5 % may.",
              "runbook_url": "runbook.md#poolerrorbudgetburn3d",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=52"
            }
          }
        ]
      },
      {
        "name": "prodpool-queue",
        "rules": [
          {
            "alert": "PoolStalled",
            "expr": "max by (job, instance, pool) (min_over_time(workerpool_queue_depth[1m])) > 0\nand\nsum by (job, instance, pool) (increase(workerpool_completed_total[5m])) == 0",
            "for": "2m",
            "labels": {
              "component": "workerpool",
              "severity": "critical"
            },
            "annotations": {
              "summary": "Pool {{ $labels.pool }} has tasks waiting and finishes none",
              "description": "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}: {{ $value | humanize }} tasks wait, none has finished in 5 minutes.",
              "runbook_url": "runbook.md#poolstalled",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&var-pool={{ $labels.pool | urlquery }}"
            }
          },
          {
            "alert": "PoolOldestQueued",
            "expr": "max by (job, instance, pool) (min_over_time(workerpool_oldest_queued_seconds[1m])) > 30",
            "for": "2m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "The next task of pool {{ $labels.pool }} has waited for more than 30 seconds",
              "description": "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}: the oldest queued task has waited for {{ $value | humanizeDuration }}.",
              "runbook_url": "runbook.md#poololdestqueued",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&var-pool={{ $labels.pool | urlquery }}"
            }
          },
          {
            "alert": "PoolOldestQueuedCritical",
            "expr": "max by (job, instance, pool) (min_over_time(workerpool_oldest_queued_seconds[1m]))\n> 300",
            "for": "1m",
            "labels": {
              "component": "workerpool",
              "severity": "critical"
            },
            "annotations": {
              "summary": "The next task of pool {{ $labels.pool }} has waited 5 minutes or more",
              "description": "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}: the oldest queued task has waited for {{ $value | humanizeDuration }}.",
              "runbook_url": "runbook.md#poololdestqueuedcritical",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&var-pool={{ $labels.pool | urlquery }}"
            }
          },
          {
            "alert": "PoolQueueSaturated",
            "expr": "max by (job, instance, pool) (min_over_time(workerpool_queue_depth[1m]))\n/\n(max by (job, instance, pool) (max_over_time(workerpool_queue_capacity[1m])) > 0)\n> 0.8",
            "for": "5m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "The queue of pool {{ $labels.pool }} is nearly full",
              "description": "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}: the queue is {{ $value | humanizePercentage }} full.",
              "runbook_url": "runbook.md#poolqueuesaturated",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&var-pool={{ $labels.pool | urlquery }}"
            }
          },
          {
            "alert": "PoolQueueFillingUp",
            "expr": "max by (job, instance, pool) (predict_linear(workerpool_queue_depth[15m], 1800))\n>= (max by (job, instance, pool) (max_over_time(workerpool_queue_capacity[1m])) > 0)\nand\nmax by (job, instance, pool) (min_over_time(workerpool_queue_depth[1m]))\n> 0.2 * max by (job, instance, pool) (max_over_time(workerpool_queue_capacity[1m]))\nunless\nmax by (job, instance, pool) (min_over_time(workerpool_queue_depth[1m]))\n> 0.8 * max by (job, instance, pool) (max_over_time(workerpool_queue_capacity[1m]))",
            "for": "10m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "The queue of pool {{ $labels.pool }} will be full within half an hour",
              "description": "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}: at the pace of the last 15 minutes {{ $value | humanize }} tasks wait soon.",
              "runbook_url": "runbook.md#poolqueuefillingup",
              "dashboard_url": "/d/prodpool-overview?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=33"
            }
          },
          {
            "alert": "PoolDwellHigh",
            "expr": "histogram_quantile(\n  0.95, sum by (job, pool, le) (rate(workerpool_queue_dwell_seconds_bucket[5m]))\n) > 30",
            "for": "10m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "Tasks of pool {{ $labels.pool }} wait for more than 30 seconds",
              "description": "Pool {{ $labels.pool }} of {{ $labels.job }}: one task in twenty waits for {{ $value | humanizeDuration }} or more.",
              "runbook_url": "runbook.md#pooldwellhigh",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=41"
            }
          },
          {
            "alert": "PoolRetryStorm",
            "expr": "sum by (job, pool) (rate(workerpool_offered_total[5m]))\n/\n(sum by (job, pool) (rate(workerpool_submitted_total[5m])) > 0)\n> 3\nand\nsum by (job, pool) (rate(workerpool_dropped_total{reason=~\"full|breaker_open\"}[5m])) > 1\nand\nsum by (job, pool) (rate(workerpool_offered_total[5m]))\n> 1.5 * sum by (job, pool) (rate(workerpool_offered_total[1h] offset 1d))",
            "for": "2m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "Pool {{ $labels.pool }} is offered far more than it admits",
              "description": "Pool {{ $labels.pool }} of {{ $labels.job }}: {{ $value | humanize }} tasks are offered for each one that is admitted.",
              "runbook_url": "runbook.md#poolretrystorm",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=35"
            }
          }
        ]
      },
      {
        "name": "prodpool-workers",
        "rules": [
          {
            "alert": "PoolWorkersSaturated",
            "expr": "sum by (job, pool) (rate(workerpool_busy_seconds_total[5m]))\n/\n(sum by (job, pool) (max_over_time(workerpool_workers[5m])) > 0)\n> 0.95",
            "for": "30m",
            "labels": {
              "component": "workerpool",
              "severity": "info"
            },
            "annotations": {
              "summary": "The workers of pool {{ $labels.pool }} are always busy",
              "description": "Pool {{ $labels.pool }} of {{ $labels.job }}: its workers spend {{ $value | humanizePercentage }} of their time in tasks.",
              "runbook_url": "runbook.md#poolworkerssaturated",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=34"
            }
          },
          {
            "alert": "PoolHungTasks",
            "expr": "max by (job, instance, pool) (min_over_time(workerpool_hung_tasks[1m])) > 0",
            "for": "1m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "Tasks of pool {{ $labels.pool }} hang",
              "description": "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}: {{ $value | humanize }} tasks or done-callbacks have run longer than hung_after.",
              "runbook_url": "runbook.md#poolhungtasks",
              "dashboard_url": "/d/prodpool-overview?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=63"
            }
          },
          {
            "alert": "PoolWorkersHung",
            "expr": "max by (job, instance, pool) (min_over_time(workerpool_hung_tasks[1m]))\n/\n(max by (job, instance, pool) (max_over_time(workerpool_workers[1m])) > 0)\n>= 0.5\nand\nmax by (job, instance, pool) (min_over_time(workerpool_queue_depth[1m])) > 0",
            "for": "1m",
            "labels": {
              "component": "workerpool",
              "severity": "critical"
            },
            "annotations": {
              "summary": "Half of the workers of pool {{ $labels.pool }} hang",
              "description": "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}: {{ $value | humanizePercentage }} of its workers hang.",
              "runbook_url": "runbook.md#poolworkershung",
              "dashboard_url": "/d/prodpool-overview?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=63"
            }
          },
          {
            "alert": "PoolSlowdown",
            "expr": "(\n  sum by (job, pool) (increase(workerpool_task_duration_seconds_sum[5m]))\n  /\n  (sum by (job, pool) (increase(workerpool_task_duration_seconds_count[5m])) > 0)\n  > 0.01\n)\n/\n(\n  sum by (job, pool) (increase(workerpool_task_duration_seconds_sum[1h] offset 1d))\n  /\n  (\n    sum by (job, pool) (increase(workerpool_task_duration_seconds_count[1h] offset 1d))\n    >= 20\n  )\n)\n> 2",
            "for": "2m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "Tasks of pool {{ $labels.pool }} take more than 2 times as long as yesterday",
              "description": "Pool {{ $labels.pool }} of {{ $labels.job }}: tasks take {{ $value | humanize }} times as long as in this hour yesterday.",
              "runbook_url": "runbook.md#poolslowdown",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=42"
            }
          }
        ]
      },
      {
        "name": "prodpool-processes",
        "rules": [
          {
            "alert": "PoolStarved",
            "expr": "max by (job, instance) (\n  rate(workerpool_scheduling_delay_seconds_sum[2m])\n  /\n  (rate(workerpool_scheduling_delay_seconds_count[2m]) > 0)\n) > 0.02",
            "for": "3m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "Threads of {{ $labels.instance }} wait for the interpreter or for a CPU",
              "description": "Process {{ $labels.instance }} of {{ $labels.job }}: a thread that is due runs {{ $value | humanizeDuration }} late on average.",
              "runbook_url": "runbook.md#poolstarved",
              "dashboard_url": "/d/prodpool-overview?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&viewPanel=71"
            }
          },
          {
            "alert": "PoolDescriptorsHigh",
            "expr": "max by (job, instance) (max_over_time(process_open_fds[1m]))\n/\n(max by (job, instance) (max_over_time(process_max_fds[1m])) > 0)\n> 0.8\nand\nmax by (job, instance) (workerpool_info)",
            "for": "2m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "{{ $labels.instance }} runs out of file descriptors",
              "description": "Process {{ $labels.instance }} of {{ $labels.job }}: {{ $value | humanizePercentage }} of its file descriptors are open.",
              "runbook_url": "runbook.md#pooldescriptorshigh",
              "dashboard_url": "/d/prodpool-overview?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&viewPanel=73"
            }
          }
        ]
      },
      {
        "name": "prodpool-dependencies",
        "rules": [
          {
            "alert": "PoolBreakerOpen",
            "expr": "max by (job, instance, pool) (max_over_time(workerpool_breaker_state{state=\"closed\"}[1m]))\n< sum by (job, instance, pool) (workerpool_breaker_state)\nor\nsum by (job, instance, pool) (min_over_time(workerpool_breaker_state{state!=\"closed\"}[1m])) > 0",
            "for": "5m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "The breaker of pool {{ $labels.pool }} stays open",
              "description": "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}: the breaker has let no more than probes through.",
              "runbook_url": "runbook.md#poolbreakeropen",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=61"
            }
          },
          {
            "alert": "PoolBreakerFlapping",
            "expr": "max by (job, instance, pool) (changes(workerpool_breaker_state{state=\"closed\"}[15m])) >= 6\nand\nsum by (job, instance, pool) (changes(workerpool_breaker_state{state!=\"closed\"}[15m])) >= 6",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "The breaker of pool {{ $labels.pool }} opens again and again",
              "description": "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}: the breaker has opened or closed {{ $value }} times in 15 minutes.",
              "runbook_url": "runbook.md#poolbreakerflapping",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=61"
            }
          },
          {
            "alert": "PoolBackendRebuilding",
            "expr": "sum by (job, instance, pool) (increase(workerpool_backend_rebuilds_total[15m])) >= 3",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "Worker processes of pool {{ $labels.pool }} die again and again",
              "description": "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}: they were replaced {{ $value | humanize }} times in 15 minutes.",
              "runbook_url": "runbook.md#poolbackendrebuilding",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-instance={{ $labels.instance | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=63"
            }
          },
          {
            "alert": "PoolChurning",
            "expr": "sum by (job, pool) (increase(workerpool_workers_started_total[5m]))\n/\n(sum by (job, pool) (max_over_time(workerpool_workers[5m])) > 0)\n> 5",
            "for": "2m",
            "labels": {
              "component": "workerpool",
              "severity": "info"
            },
            "annotations": {
              "summary": "Workers of pool {{ $labels.pool }} are started again and again",
              "description": "Pool {{ $labels.pool }} of {{ $labels.job }}: each worker was started {{ $value | humanize }} times in 5 minutes.",
              "runbook_url": "runbook.md#poolchurning",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=64"
            }
          },
          {
            "alert": "PoolWorkersDying",
            "expr": "sum by (job, pool) (increase(workerpool_workers_lost_total[6h])) >= 3",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "Workers of pool {{ $labels.pool }} die now and then",
              "description": "Pool {{ $labels.pool }} of {{ $labels.job }}: {{ $value | humanize }} workers were lost in 6 hours, each with its task.",
              "runbook_url": "runbook.md#poolworkersdying",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=64"
            }
          }
        ]
      },
      {
        "name": "prodpool-lifecycle",
        "rules": [
          {
            "alert": "PoolShutdownLostTasks",
            "expr": "sum by (job, pool) (increase(workerpool_dropped_total{reason=\"shutdown\"}[15m])) > 0",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "Pool {{ $labels.pool }} lost queued tasks when it stopped",
              "description": "Pool {{ $labels.pool }} of {{ $labels.job }}: about {{ $value | humanize }} queued tasks were dropped by a stop.",
              "runbook_url": "runbook.md#poolshutdownlosttasks",
              "dashboard_url": "/d/prodpool-pool?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=33"
            }
          },
          {
            "alert": "PoolMetricsAbsent",
            "expr": "count by (job, pool) (last_over_time(workerpool_submitted_total[5m] offset 1h))\nunless\ncount by (job, pool) (workerpool_submitted_total)",
            "for": "5m",
            "labels": {
              "component": "workerpool",
              "severity": "warning"
            },
            "annotations": {
              "summary": "Pool {{ $labels.pool }} has no metrics any more",
              "description": "Pool {{ $labels.pool }} of {{ $labels.job }} was scraped in {{ $value }} instances an hour ago, and in none now.",
              "runbook_url": "runbook.md#poolmetricsabsent",
              "dashboard_url": "/d/prodpool-overview?var-job={{ $labels.job | urlquery }}&var-pool={{ $labels.pool | urlquery }}&viewPanel=21"
            }
          }
        ]
      }
    ]
  },
  prometheusRules+:: {
    "groups": [
      {
        "name": "prodpool-budget",
        "rules": [
          {
            "record": "pool:workerpool_bad:ratio_rate5m",
            "expr": "sum by (job, pool) (\n  rate(workerpool_completed_total{result=~\"error|panic|timeout\"}[5m])\n  or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[5m])\n)\n/\n(\n  sum by (job, pool) (\n    rate(workerpool_completed_total[5m])\n    or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[5m])\n  ) > 0\n)"
          },
          {
            "record": "pool:workerpool_bad:ratio_rate30m",
            "expr": "sum by (job, pool) (\n  rate(workerpool_completed_total{result=~\"error|panic|timeout\"}[30m])\n  or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[30m])\n)\n/\n(\n  sum by (job, pool) (\n    rate(workerpool_completed_total[30m])\n    or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[30m])\n  ) > 0\n)"
          },
          {
            "record": "pool:workerpool_bad:ratio_rate1h",
            "expr": "sum by (job, pool) (\n  rate(workerpool_completed_total{result=~\"error|panic|timeout\"}[1h])\n  or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[1h])\n)\n/\n(\n  sum by (job, pool) (\n    rate(workerpool_completed_total[1h])\n    or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[1h])\n  ) > 0\n)"
          },
          {
            "record": "pool:workerpool_bad:ratio_rate6h",
            "expr": "sum by (job, pool) (\n  rate(workerpool_completed_total{result=~\"error|panic|timeout\"}[6h])\n  or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[6h])\n)\n/\n(\n  sum by (job, pool) (\n    rate(workerpool_completed_total[6h])\n    or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[6h])\n  ) > 0\n)"
          },
          {
            "record": "pool:workerpool_ended:increase1h",
            "expr": "sum by (job, pool) (\n  increase(workerpool_completed_total[1h])\n  or increase(workerpool_dropped_total{reason!~\"cancelled|closed\"}[1h])\n)"
          },
          {
            "record": "pool:workerpool_ended:increase6h",
            "expr": "sum by (job, pool) (\n  increase(workerpool_completed_total[6h])\n  or increase(workerpool_dropped_total{reason!~\"cancelled|closed\"}[6h])\n)"
          }
        ]
      },
      {
        "name": "prodpool-budget-slow",
        "interval": "2m",
        "rules": [
          {
            "record": "pool:workerpool_bad:ratio_rate2h",
            "expr": "sum by (job, pool) (\n  rate(workerpool_completed_total{result=~\"error|panic|timeout\"}[2h])\n  or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[2h])\n)\n/\n(\n  sum by (job, pool) (\n    rate(workerpool_completed_total[2h])\n    or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[2h])\n  ) > 0\n)"
          },
          {
            "record": "pool:workerpool_bad:ratio_rate1d",
            "expr": "sum by (job, pool) (\n  rate(workerpool_completed_total{result=~\"error|panic|timeout\"}[1d])\n  or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[1d])\n)\n/\n(\n  sum by (job, pool) (\n    rate(workerpool_completed_total[1d])\n    or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[1d])\n  ) > 0\n)"
          },
          {
            "record": "pool:workerpool_bad:ratio_rate3d",
            "expr": "sum by (job, pool) (\n  rate(workerpool_completed_total{result=~\"error|panic|timeout\"}[3d])\n  or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[3d])\n)\n/\n(\n  sum by (job, pool) (\n    rate(workerpool_completed_total[3d])\n    or rate(workerpool_dropped_total{reason!~\"cancelled|closed\"}[3d])\n  ) > 0\n)"
          },
          {
            "record": "pool:workerpool_ended:increase1d",
            "expr": "sum by (job, pool) (\n  increase(workerpool_completed_total[1d])\n  or increase(workerpool_dropped_total{reason!~\"cancelled|closed\"}[1d])\n)"
          },
          {
            "record": "pool:workerpool_ended:increase3d",
            "expr": "sum by (job, pool) (\n  increase(workerpool_completed_total[3d])\n  or increase(workerpool_dropped_total{reason!~\"cancelled|closed\"}[3d])\n)"
          }
        ]
      }
    ]
  },
}
