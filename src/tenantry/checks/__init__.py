"""What is wrong with roles, tables, models and settings, for ``check_rls`` and ``manage.py check``.

Every finding has an id of its own, which docs/reference/checks.md explains.
"""
