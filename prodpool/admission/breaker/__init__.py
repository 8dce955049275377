"""The circuit breaker: may a task go to a dependency that has been failing?"""
