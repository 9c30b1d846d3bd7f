"""Sphinx configuration; ``make docs`` builds into ``docs/_build``."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import django
from django.conf import settings

ROOT = Path(__file__).resolve().parent.parent
METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# autodoc imports tenantry, and its models need settings.
sys.path.insert(0, str(ROOT / "src"))
settings.configure(
    DATABASES={"default": {"ENGINE": "tenantry.backends.postgresql", "NAME": "docs"}},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "tenantry"],
    RLS_TENANTS={"TENANT_MODEL": "auth.Group"},
)
django.setup()

project = "tenantry"
author = "The tenantry authors"
version = release = METADATA["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
default_role = "literal"
nitpicky = False
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"

html_theme = "furo"
html_title = f"tenantry {release}"
html_copy_source = False
