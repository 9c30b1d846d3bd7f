"""Django's own test suite, on Django's PostgreSQL backend and on tenantry's.

Run ``python tests/django_suite/run.py --help``.
"""
