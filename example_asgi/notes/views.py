"""The pages. None of them filters by tenant."""

import asyncio
import json
from math import ceil

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import JsonResponse, StreamingHttpResponse
from django.shortcuts import aget_object_or_404, redirect, render

from tenantry import admin_context
from tenantry.binding import current_binding

from .export import csv_lines
from .forms import NoteForm, SearchForm, SlowForm
from .models import Note, Tenant
from .reports import run_reports
from .sampledata import LOGINS, PASSWORD

PAGE_SIZE = 20
EVENTS = 10
BETWEEN_EVENTS = 0.1


async def page(request, template, **context):
    """Render a template with the user, whom a template in async code could not load itself."""
    return render(request, template, {"user": await request.auser(), **context})


class DemoLoginView(LoginView):
    """A login page that tells the logins."""

    template_name = "notes/login.html"
    extra_context = {"logins": LOGINS, "password": PASSWORD}


async def note_list(request):
    """Show the notes, a page at a time."""
    form = SearchForm(request.GET)
    form.full_clean()
    words = form.cleaned_data.get("q", "")
    notes = Note.objects.all()
    if words:
        notes = notes.filter(Q(title__icontains=words) | Q(body__icontains=words))
    total = await notes.acount()
    pages = max(1, ceil(total / PAGE_SIZE))
    number = min(form.cleaned_data.get("page") or 1, pages)
    first = (number - 1) * PAGE_SIZE
    shown = notes.select_related("author", "tenant").prefetch_related("tags")
    return await page(
        request,
        "notes/list.html",
        notes=[note async for note in shown[first : first + PAGE_SIZE]],
        words=words,
        total=total,
        number=number,
        pages=pages,
    )


async def note_detail(request, pk):
    """Show a note; one of another tenant does not exist."""
    notes = Note.objects.all().select_related("author", "tenant").prefetch_related("tags")
    return await page(request, "notes/detail.html", note=await aget_object_or_404(notes, pk=pk))


@login_required
def note_create(request):
    """Write a note of the tenant that the request runs as."""
    tenant_id = current_binding().tenant_id
    if tenant_id is None:
        raise PermissionDenied("A note belongs to a tenant: select one in the header of the admin.")
    form = NoteForm(request.POST or None)
    if form.is_valid():
        note = form.save_by(request.user)
        messages.success(request, "The note is saved.")
        return redirect("note", note.pk)
    tenant = Tenant.objects.get(pk=tenant_id)
    return render(request, "notes/form.html", {"form": form, "tenant": tenant})


def report(request):
    """Show reports in plain SQL."""
    return render(request, "notes/report.html", {"reports": run_reports()})


async def slow(request):
    """Look at the notes before and after something slow, such as a call to another service."""
    seconds = SlowForm(request.GET).seconds()
    looks = [await look()]
    await asyncio.sleep(seconds)
    looks.append(await look())
    return await page(request, "notes/slow.html", seconds=seconds, looks=looks)


async def look():
    """Return how many notes there are, and whose."""
    tenants = Note.objects.all().order_by("tenant__name").values("tenant__name", "tenant__slug")
    return {
        "count": await Note.objects.acount(),
        "tenants": [tenant async for tenant in tenants.distinct()],
    }


async def export(request):
    """Stream the notes as CSV."""
    return StreamingHttpResponse(
        csv_lines(),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="notes.csv"'},
    )


async def events(request):
    """Stream how many notes there are, and whose, as they change."""

    async def body():
        for _ in range(EVENTS):
            yield f"data: {json.dumps(await look())}\n\n"
            await asyncio.sleep(BETWEEN_EVENTS)

    return StreamingHttpResponse(
        body(), content_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def everything(request):
    """Show an administrator the notes of all tenants."""
    user = await request.auser()
    if not getattr(user, "is_tenant_admin", False):
        raise PermissionDenied("Only administrators see everything.")
    async with admin_context():
        notes = Note.objects.all().select_related("author", "tenant").prefetch_related("tags")
        ordered = notes.order_by("tenant__name", "-created_at")
        return await page(request, "notes/everything.html", notes=[note async for note in ordered])


async def api_notes(request):
    """Return the notes as JSON."""
    return JsonResponse(
        [
            {"id": note.pk, "title": note.title, "tenant": note.tenant.slug}
            async for note in Note.objects.all().select_related("tenant")
        ],
        safe=False,
    )


async def boom(request):
    """Fail after a query."""
    raise RuntimeError(f"boom, after {await Note.objects.acount()} notes")
