"""An executor that makes each call where it is submitted, and how a pool over it runs its tasks there."""
