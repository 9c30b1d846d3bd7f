"""What PostgreSQL's errors about a binding lack: what to do, in words of a project.

The text begins with PostgreSQL's own, and the class is the same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from psycopg import Error, errors

from ...binding import Binding
from ...conf import rls_tenants
from ...policies.predicates import sealed_function

if TYPE_CHECKING:
    from psycopg.abc import PQGen

T = TypeVar("T")

# A token as seal.py makes it, but for the tenant at its end.
TOKEN = re.compile(r"1:[0-9a-f]{16}:[0-9]+:[a-z0-9_]*:[0-9a-f]{64}(?=:)")
UNSEALED = "The policies are not sealed yet; run makemigrations and migrate"
UNFOLLOWED = (
    "A transaction pooler that does not follow prepared statements has changed the server session;"
    " set its max_prepared_statements, or remove prepare_threshold from OPTIONS in DATABASES"
)
NOT_ITS_OWN = (
    "The statement ends its transaction, but the tenant is bound to the transaction; let the"
    " procedure leave COMMIT and ROLLBACK to its caller"
)
NO_TENANT = "No tenant is current; open tenant_context() around what writes the row"


def is_refused_row(error: Error) -> bool:
    """Return whether a policy has refused what a statement would have written."""
    # The function's name is the same in every language of the server's messages.
    return error.diag.source_function == "ExecWithCheckOptions"


def shows_seal(error: Error) -> bool:
    """Return whether a policy that is not sealed has taken a token for the id of a tenant."""
    is_value = isinstance(error, errors.InvalidTextRepresentation)
    return is_value and rls_tenants().sealed and TOKEN.search(str(error)) is not None


def lacks_verifier(error: Error) -> bool:
    """Return whether the database has no function yet that verifies what is sealed."""
    settings = rls_tenants()
    if not (settings.sealed and isinstance(error, errors.UndefinedFunction)):
        return False
    # The message is the server's, in any language.
    return sealed_function(settings.guc_prefix) in (error.diag.message_primary or "")


def tell_of_pooler(error: Error) -> None:
    """Add what to do to an error that a server session has other prepared statements than known."""
    is_name = isinstance(error, errors.InvalidSqlStatementName | errors.DuplicatePreparedStatement)
    # As psycopg names them.
    if is_name and '"_pg3_' in (error.diag.message_primary or ""):
        error.args = (f"{error}\n{UNFOLLOWED}", *error.args[1:])


def advised(error: Error, binding: Binding) -> Error:
    """Return `error`, of a statement that ran in `binding`, with what to do about it.

    What would show a seal is another error, which knows nothing of PostgreSQL's: raise it where
    that is not handled, or it would be its context.
    """
    if shows_seal(error):
        return type(error)(f"{TOKEN.sub('<seal>', str(error))}\n{UNSEALED}")
    if lacks_verifier(error):
        error.args = (f"{error}\n{UNSEALED}", *error.args[1:])
    if isinstance(error, errors.InvalidTransactionTermination):
        error.args = (f"{error}\n{NOT_ITS_OWN}", *error.args[1:])
    unbound = binding.tenant_id is None and not binding.is_admin
    if unbound and isinstance(error, errors.InsufficientPrivilege) and is_refused_row(error):
        error.args = (f"{error}\n{NO_TENANT}", *error.args[1:])
    return error


def with_advice(steps: PQGen[T], binding: Binding) -> PQGen[T]:
    """Take `steps` of psycopg, whose errors it raises itself; see :func:`advised`."""
    try:
        return (yield from steps)
    except Error as error:
        failed = advised(error, binding)
    try:
        raise failed
    finally:
        # Its traceback holds this frame.
        del failed
