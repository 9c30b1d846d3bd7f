"""``dbshell``: psql, which is another process, started in the current binding."""

from __future__ import annotations

import os
from typing import Any

from django.db.backends.postgresql import client

from ...binding import UNBOUND, current_binding
from ...exceptions import UnbindableStatementError
from .apply import is_secret, startup_options


class ClientMixin:
    """Give psql the binding as options of its session.

    They hold until psql ends, and for nobody else, because the server session is psql's own.
    """

    @classmethod
    def settings_to_cmd_args_env(
        cls, settings_dict: dict[str, Any], parameters: Any
    ) -> tuple[list[str], dict[str, str] | None]:
        """Return the command line of psql, and what is added to its environment.

        Raises UnbindableStatementError for a binding that must be signed for each transaction.
        """
        args, env = super().settings_to_cmd_args_env(  # type: ignore[misc]
            settings_dict, parameters
        )
        binding = current_binding()
        if binding == UNBOUND:
            return args, env
        if is_secret(binding):
            raise UnbindableStatementError(
                "psql cannot run as a tenant or as the admin where RLS_TENANTS['SEALED'] is set:"
                " the seal is good for a few minutes, and psql cannot renew it; use the Python"
                " shell, where connection.cursor() is bound"
            )
        options = [os.environ.get("PGOPTIONS", ""), startup_options(binding)]
        return args, (env or {}) | {"PGOPTIONS": " ".join(filter(None, options))}


class DatabaseClient(ClientMixin, client.DatabaseClient):
    """Django's client, bound."""
