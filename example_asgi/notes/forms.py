"""What the pages read from requests."""

from django import forms
from django.db import transaction

from .models import Note, Tag


class SearchForm(forms.Form):
    """Words to look for, and a page."""

    q = forms.CharField(required=False, max_length=100)
    page = forms.IntegerField(required=False, min_value=1)


class SlowForm(forms.Form):
    """How long the slow page takes."""

    s = forms.FloatField(required=False)

    def seconds(self, default=0.5, longest=2.0):
        """Return a number of seconds, whatever was asked for."""
        asked = self.cleaned_data.get("s") if self.is_valid() else None
        return default if asked is None else min(max(asked, 0.0), longest)


class NoteForm(forms.ModelForm):
    """A new note."""

    # Made when this module is imported, when no tenant is known: it is scoped when it is evaluated.
    tags = forms.ModelMultipleChoiceField(
        Tag.objects.all(), required=False, widget=forms.CheckboxSelectMultiple
    )

    class Meta:
        model = Note
        fields = ["title", "body", "tags"]
        widgets = {"body": forms.Textarea(attrs={"rows": 8})}

    def save_by(self, author):
        """Save the note and return it; PostgreSQL fills in its tenant, and that of its tags."""
        note = self.instance
        note.author = author
        with transaction.atomic():
            note.save()
            note.tags.set(self.cleaned_data["tags"])
        return note
