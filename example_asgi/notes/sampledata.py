"""The sample tenants, their users, and texts for notes; the same ones every time."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

PASSWORD = "demo"  # noqa: S105 (the login page shows it)
ADMIN = "root"
FIRST_NOTE = datetime(2026, 1, 5, 9, 15, tzinfo=UTC)
BETWEEN_NOTES = timedelta(hours=31, minutes=37)


@dataclass(frozen=True)
class Sample:
    """A tenant to begin with."""

    name: str
    slug: str
    username: str
    tags: tuple[str, ...]
    subjects: tuple[str, ...]


SAMPLES = (
    Sample(
        "Acme",
        "acme",
        "alice",
        ("customer", "planning", "urgent", "safety", "returns"),
        (
            "the rocket skates",
            "the giant magnet",
            "the portable hole",
            "the spring-loaded boots",
            "the desert warehouse",
            "the mail-order catalogue",
            "the anvil delivery",
            "the dehydrated boulders",
        ),
    ),
    Sample(
        "Globex",
        "globex",
        "bob",
        ("customer", "planning", "urgent", "energy", "relocation"),
        (
            "the Cypress Creek campus",
            "the reactor upgrade",
            "the hammock district",
            "the staff bus",
            "the weather machine",
            "the night shift",
            "the cooling pumps",
            "the harbour crane",
        ),
    ),
    Sample(
        "Initech",
        "initech",
        "carol",
        ("customer", "planning", "urgent", "cover sheets", "facilities"),
        (
            "the TPS reports",
            "the date conversion",
            "the third-floor printer",
            "the red stapler",
            "the bank software",
            "the Friday meeting",
            "the basement storage",
            "the consultants' visit",
        ),
    ),
)

LOGINS = [(sample.username, sample.name) for sample in SAMPLES] + [(ADMIN, "administrator")]

TITLES = (
    "Plan for {}",
    "Minutes about {}",
    "Open question on {}",
    "A cheaper way to run {}",
    "What we learned from {}",
)
OPENINGS = (
    "We walked through the details of {} this morning.",
    "Three people asked about {} this week.",
    "The budget for {} is agreed, with one condition.",
    "Nobody has looked at {} since the spring.",
    "There is a first draft for {} in the shared folder.",
    "The supplier called about {} again.",
    "We tried something new with {}, and it held.",
)
MIDDLES = (
    "The numbers are better than last quarter, mostly because we stopped doing things twice.",
    "Two steps still depend on one person, so we write them down before the holidays.",
    "The old contract ends in six weeks; a shorter one costs less and binds us less.",
    "Support sees the same question every day, and a better label would answer it.",
    "The test run took four hours, of which three were waiting for a key.",
)
ENDINGS = (
    "Next step: a call on Thursday.",
    "I will send the figures round by noon.",
    "If nobody objects, we start on Monday.",
    "Please add what I have forgotten.",
)


def texts(sample):
    """Yield title, body and time of every note of a tenant."""
    # Five titles and eight subjects have no common factor, so that no pair comes twice.
    for index in range(len(TITLES) * len(sample.subjects)):
        subject = sample.subjects[index % len(sample.subjects)]
        title = TITLES[index % len(TITLES)].format(subject)
        opening = OPENINGS[index % len(OPENINGS)].format(subject)
        middle = MIDDLES[index % len(MIDDLES)]
        ending = ENDINGS[index % len(ENDINGS)]
        yield title, f"{opening} {middle}\n\n{ending}", FIRST_NOTE + index * BETWEEN_NOTES
