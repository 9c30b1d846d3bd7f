"""A WebSocket, without a framework: every message is answered with what it finds."""

import json

from .models import Note

LONGEST = 200


async def search(scope, receive, send):
    """Answer words with the newest notes whose titles have them."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        words = (message.get("text") or "")[:LONGEST]
        notes = Note.objects.filter(title__icontains=words).select_related("tenant")
        found = [
            {"title": note.title, "tenant": note.tenant.slug}
            async for note in notes.order_by("-created_at")
        ]
        await send({"type": "websocket.send", "text": json.dumps(found)})
