"""A small newspaper for the tests of the site's parser and of the scraper."""


def article(day: str, number: int, **more: object) -> dict[str, object]:
    """An article with two paragraphs; `more` overrides any key."""
    return {
        "id": f"{day}-{number:02d}",
        "date": day,
        "section": "ΚΟΙΝΩΝΙΑ" if number % 2 else "ΠΟΛΙΤΙΚΗ",
        "kicker": "ΛΙΜΑΝΙ ΤΟΥ ΠΕΙΡΑΙΑ" if number % 2 else "",
        "byline": "Του Γιάννη Νέλλα" if number % 3 else "",
        "title": f"Ολοι στην απεργία {number}",
        "text": f"Στις 24 Μάη 2010 ξεκίνησαν {number} πλοία & βάρκες.\n\n"
        + "Ηταν «μεγάλη» μέρα, είπαν οι εργάτες. " * 5,
    } | more


# A Friday paper, a joint weekend issue, a second printing, and a day with an insert.
ARTICLES = [
    *(article("2018-03-02", number) for number in (1, 2, 3)),
    *(article("2018-03-03", number) for number in (1, 2)),
    article("2018-03-06", 1, printing=1),
    article("2018-03-06", 2, printing=2),
    article("2018-03-09", 1),
    article("2018-03-09", 2, insert="ΠΑΙΔΕΙΑ"),
]
SITE = {"joint": ["2018-03-03"], "instead": {"2018-03-05": "2018-03-02"}}
