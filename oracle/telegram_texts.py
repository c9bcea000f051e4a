"""What the bot says of its own, in Greek and in English."""

from typing import Any

from oracle.telegram_state import Choices

GREEK, ENGLISH = "el", "en"

TEXTS = {
    "start": (
        "Γεια σας! Είμαι το {name}, ένα μικρό γλωσσικό μοντέλο που διάβασε μία μόνο εφημερίδα. Γράψτε μου κάτι και θα"
        " απαντήσω. Προσοχή: επινοώ. Ονόματα, αριθμοί και γεγονότα στις απαντήσεις μου μπορεί να είναι λάθος.\n\n{help}",
        "Hello! I am {name}, a small language model that has read one newspaper only. Write to me and I will answer."
        " Beware: I invent. Names, numbers and events in my answers may be wrong.\n\n{help}",
    ),
    "help": (
        "/reset ξεχνά τη συζήτηση\n/settings ρυθμίσεις\n/about τι είμαι και τι κρατώ\n/help αυτό το κείμενο",
        "/reset forgets the conversation\n/settings settings\n/about what I am and what I keep\n/help this text",
    ),
    "recording": (
        "\n\nΜόνο αν το επιτρέψετε στο /settings, όσες απαντήσεις βαθμολογείτε με 👍 ή 👎 φυλάσσονται μαζί με τη συζήτηση,"
        " χωρίς το όνομά σας, για την εκπαίδευση του επόμενου μοντέλου.",
        "\n\nOnly if you allow it under /settings, the answers that you rate 👍 or 👎 are kept with their conversation,"
        " without your name, to train the next model.",
    ),
    "about": (
        "{name}: μικρό μοντέλο, εκπαιδευμένο από το μηδέν στα κείμενα μίας εφημερίδας. Δεν έχει πρόσβαση στο διαδίκτυο, δεν"
        " ξέρει τα νέα και επινοεί: μην το χρησιμοποιείτε για ιατρικές, νομικές ή άλλες αποφάσεις. Η συζήτηση φυλάσσεται"
        " στον υπολογιστή του bot ώσπου να γράψετε /reset.",
        "{name}: a small model, trained from nothing on the text of one newspaper. It has no access to the internet, does"
        " not know the news, and invents: do not rely on it for medical, legal or any other decisions. The conversation"
        " stays on the bot's computer until you send /reset.",
    ),
    "reset": ("Η συζήτηση ξεχάστηκε. Ας αρχίσουμε από την αρχή.", "The conversation is forgotten. Let us begin anew."),
    "settings": ("Ρυθμίσεις αυτής της συζήτησης:", "Settings of this chat:"),
    "unknown": ("Δεν ξέρω αυτή την εντολή.\n\n{help}", "I do not know that command.\n\n{help}"),
    "not_text": ("Καταλαβαίνω μόνο κείμενο. Γράψτε μου κάτι.", "I understand text only. Write me something."),
    "too_long": (
        "Το μήνυμα έχει {given:,} χαρακτήρες. Διαβάζω ως {allowed:,}: γράψτε το συντομότερα.",
        "The message has {given:,} characters. I read up to {allowed:,}: please shorten it.",
    ),
    "private": (
        "Αυτό το bot μιλά μόνο με όσους διάλεξε ο κάτοχός του. Ο αριθμός σας είναι {user}.",
        "This bot talks only to those its owner chose. Your number is {user}.",
    ),
    "slower": ("Πολλά μηνύματα. Δοκιμάστε ξανά σε {seconds} δευτ.", "Too many messages. Try again in {seconds} s."),
    "one_at_a_time": (
        "Σας απαντώ ήδη. Γράψτε ξανά μόλις τελειώσω.",
        "I am answering you already. Write again when I have finished.",
    ),
    "full": (
        "Περιμένουν πολλοί. Δοκιμάστε ξανά σε λίγα λεπτά.",
        "Too many people are waiting. Try again in a few minutes.",
    ),
    "place": ("Θέση στην ουρά: {place}…", "Place in the queue: {place}…"),
    "wait": ("…", "…"),
    "late": (
        "Έλειπα για ώρα και δεν απάντησα. Ρωτήστε με ξανά.",
        "I was away for a while and did not answer. Ask me again.",
    ),
    "failed": ("Κάτι πήγε στραβά και δεν απάντησα. Δοκιμάστε ξανά.", "Something went wrong. Please try again."),
    "nothing": ("(Δεν έχω τίποτα να πω.)", "(I have nothing to say.)"),
    "thanks": ("Ευχαριστώ!", "Thank you!"),
    "forgotten": ("Αυτή η απάντηση δεν φυλάσσεται πια.", "This answer is no longer kept."),
}
COMMANDS = ("help", "reset", "settings", "about")
MENU = {
    "help": ("βοήθεια", "help"),
    "reset": ("ξεχνά τη συζήτηση", "forget the conversation"),
    "settings": ("ρυθμίσεις", "settings"),
    "about": ("τι είμαι", "what I am"),
}

# Rows of the settings' buttons: (field of Choices, its value, Greek, English).
Option = tuple[str, str | float | int | bool, str, str]
OPTIONS: tuple[tuple[Option, ...], ...] = (
    (("language", GREEK, "Ελληνικά", "Ελληνικά"), ("language", ENGLISH, "English", "English")),
    (
        ("temperature", 0.3, "προσεκτικά", "careful"),
        ("temperature", 0.8, "κανονικά", "normal"),
        ("temperature", 1.1, "τολμηρά", "bold"),
    ),
    (("length", 60, "σύντομα", "short"), ("length", 200, "κανονικά", "normal"), ("length", 500, "μακριά", "long")),
    (("keep", True, "να φυλάσσονται", "keep what I rate"), ("keep", False, "να μη φυλάσσονται", "keep nothing")),
)


def language_of(choices: Choices, tag: str) -> str:
    """The language chosen, or the one of the user's Telegram."""
    return choices.language or (GREEK if tag.lower().startswith("el") else ENGLISH)


def say(key: str, language: str, **values: object) -> str:
    text = TEXTS[key][0 if language == GREEK else 1]
    return text.format(**values) if values else text


def settings_rows(choices: Choices, language: str, recording: bool) -> list[list[tuple[str, str]]]:
    """Rows of (label, data) for the settings' buttons; what is chosen is marked."""
    rows = []
    for options in OPTIONS:
        if options[0][0] == "keep" and not recording:
            continue
        rows.append([
            ("✓ " * (getattr(choices, name) == value) + (greek if language == GREEK else english), f"set:{name}:{value}")
            for name, value, greek, english in options
        ])  # fmt: skip
    return rows


def chosen(data: str) -> dict[str, Any]:
    """The choice that a settings' button stands for; empty for data that no button has."""
    for options in OPTIONS:
        for name, value, _, _ in options:
            if data == f"set:{name}:{value}":
                return {name: value}
    return {}
