"""What PostgreSQL's errors about a binding lack: what to do, in words of a project.

The text begins with PostgreSQL's own, and the class is the same.
"""

from __future__ import annotations

from psycopg import Error, errors

from ...binding import Binding

NO_TENANT = "No tenant is current; open tenant_context() around what writes the row"


def is_refused_row(error: Error) -> bool:
    """Return whether a policy has refused what a statement would have written."""
    # The function's name is the same in every language of the server's messages.
    return error.diag.source_function == "ExecWithCheckOptions"


def advised(error: Error, binding: Binding) -> Error:
    """Return `error`, of a statement that ran in `binding`, with what to do about it."""
    unbound = binding.tenant_id is None and not binding.is_admin
    if unbound and isinstance(error, errors.InsufficientPrivilege) and is_refused_row(error):
        error.args = (f"{error}\n{NO_TENANT}", *error.args[1:])
    return error
