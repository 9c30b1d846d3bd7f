"""django-rls-tenants under load: its middleware on the async path, its models, Django's async ORM.

The values are the session's, its default: with ``USE_LOCAL_SET`` its async path gives each
statement a transaction of its own. The pool's ``reset`` is its ``reset_rls_gucs``, which its check
W010 asks for. The context of its middleware ends before a stream begins, so the stream enters its
``async_tenant_context``.
"""
