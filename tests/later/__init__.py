"""The migrations of the test project, and one that no database has run."""

from tests.app import migrations

__path__.extend(migrations.__path__)
