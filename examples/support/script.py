"""What is said: a customer with three matters at once, and three agents who know one each.

Every exchange stands for itself, because nobody knows in which order the agents get their turns.
"""

from dataclasses import dataclass
from typing import Any

SYSTEM = (
    "You are the support desk of Lindholm Furniture. Be brief and friendly, look things up before you "
    "promise anything, and never ask a customer twice for what was said before."
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question, the tool that was needed, and the answer.

    Attributes:
        title: a few words for people who watch.
        question: what the customer says.
        tool: which tool the agent calls.
        arguments: with what.
        result: what the tool returns.
        answer: what the agent says.
    """

    title: str
    question: str
    tool: str
    arguments: dict[str, Any]
    result: dict[str, Any]
    answer: str


def exchanges(agent: str) -> tuple[Exchange, ...]:
    """Return what an agent has to answer, in order."""
    return {"orders": _ORDERS, "shipping": _SHIPPING, "billing": _BILLING}[agent]


AGENTS = ("orders", "shipping", "billing")

_ORDERS = (
    Exchange(
        "what is in order 48211",
        "Hi, I ordered a desk and two chairs last week. Can you see the order?",
        "lookup_order",
        {"order": "48211"},
        {
            "order": "48211",
            "placed": "2026-03-02",
            "items": ["desk Alma", "chair Fyn", "chair Fyn"],
        },
        "Yes: order 48211 of 2 March, one desk Alma and two chairs Fyn.",
    ),
    Exchange(
        "one chair came broken",
        "One of the chairs arrived with a cracked leg. What can you do?",
        "lookup_item",
        {"order": "48211", "item": "chair Fyn"},
        {"price": "149.00 EUR", "in_stock": 0, "restock": "2026-04-20"},
        "I am sorry about that. A new one would take until 20 April; shall I refund this one?",
    ),
    Exchange(
        "refund for the chair",
        "Please refund the broken chair, I will buy another one elsewhere.",
        "refund",
        {"order": "48211", "item": "chair Fyn", "amount": "149.00 EUR", "reason": "damaged"},
        {"refund": "R-7719", "status": "accepted", "arrives_within_days": 3},
        "Done: 149.00 EUR are on their way, refund R-7719, within three working days.",
    ),
    Exchange(
        "what happens to the broken chair",
        "Do I have to send the broken chair back to you?",
        "return_policy",
        {"refund": "R-7719"},
        {"return_required": False, "disposal": "customer"},
        "No, keep it or throw it away. Nothing else is needed for the refund.",
    ),
    Exchange(
        "spare screws for the desk",
        "The desk has one screw too few, the long one for the left leg.",
        "order_spare_part",
        {"order": "48211", "part": "A-204"},
        {"part": "A-204", "price": "0.00 EUR", "ships": "tomorrow"},
        "Part A-204 is free of charge and leaves tomorrow by letter.",
    ),
    Exchange(
        "is the refund there yet",
        "Has the money for the chair been sent by now?",
        "refund_status",
        {"refund": "R-7719"},
        {"refund": "R-7719", "status": "sent", "bank_reference": "LF-7719-26"},
        "It was sent this morning with the reference LF-7719-26.",
    ),
    Exchange(
        "a different chair instead",
        "Is there a chair like Fyn that you have in stock?",
        "search_catalogue",
        {"like": "chair Fyn", "in_stock": True},
        {"items": [{"name": "chair Odde", "price": "139.00 EUR", "in_stock": 12}]},
        "Chair Odde is close, costs 139.00 EUR, and we have twelve of them.",
    ),
    Exchange(
        "order the other chair",
        "Good, send me one Odde in oak, please.",
        "create_order",
        {"item": "chair Odde", "colour": "oak", "quantity": 1},
        {"order": "48377", "total": "139.00 EUR", "delivery": "2026-03-17"},
        "Ordered: 48377, one chair Odde in oak, with you on 17 March.",
    ),
)

_SHIPPING = (
    Exchange(
        "where is the second parcel",
        "Only one of two parcels came. Where is the other one?",
        "ask_carrier",
        {"tracking": "NX55120"},
        {"tracking": "NX55120", "state": "held", "place": "depot Leipzig", "since": "2026-03-05"},
        "The second parcel, NX55120, has been held at the depot in Leipzig since 5 March.",
    ),
    Exchange(
        "why it is held",
        "Why do they hold it? I was at home all day.",
        "ask_carrier",
        {"tracking": "NX55120", "question": "reason"},
        {"reason": "house number missing on the label", "needs": "confirmation of the address"},
        "The label lost its house number. They only need your address confirmed.",
    ),
    Exchange(
        "address for the carrier",
        "It is Karlsgatan 14, third floor, and the bell says Okafor.",
        "confirm_address",
        {"tracking": "NX55120", "street": "Karlsgatan 14", "bell": "Okafor", "floor": 3},
        {"accepted": True, "next_attempt": "2026-03-10"},
        "Thank you, they have it now. The next attempt is on 10 March.",
    ),
    Exchange(
        "a time for the delivery",
        "Can they come after five in the afternoon?",
        "book_window",
        {"tracking": "NX55120", "date": "2026-03-10", "from": "17:00", "to": "20:00"},
        {"booked": True, "window": "17:00-20:00"},
        "Booked: 10 March between 17:00 and 20:00.",
    ),
    Exchange(
        "may a neighbour take it",
        "If I am late, may my neighbour Svensson sign for it?",
        "allow_recipient",
        {"tracking": "NX55120", "name": "Svensson"},
        {"allowed": True},
        "Yes, Svensson may sign. The driver sees it on the device.",
    ),
    Exchange(
        "is it on its way",
        "Did the parcel leave Leipzig?",
        "ask_carrier",
        {"tracking": "NX55120"},
        {"tracking": "NX55120", "state": "in transit", "place": "Malmö", "eta": "2026-03-10"},
        "Yes, it is in Malmö now and stays on time for 10 March.",
    ),
    Exchange(
        "will they call before",
        "Will the driver call me before coming?",
        "delivery_options",
        {"tracking": "NX55120"},
        {"call_before": False, "message_before": True},
        "There is no call, but you get a message half an hour before.",
    ),
    Exchange(
        "what the second parcel weighs",
        "How heavy is it? There is no lift in the house.",
        "ask_carrier",
        {"tracking": "NX55120", "question": "weight"},
        {"weight_kg": 21.5, "carried_upstairs": True},
        "21.5 kg, and they carry it up to your door.",
    ),
)

_BILLING = (
    Exchange(
        "invoice for the employer",
        "I need the invoice in the name of my company.",
        "lookup_invoice",
        {"order": "48211"},
        {"invoice": "I-90233", "name": "Mira Okafor", "total": "647.00 EUR"},
        "Invoice I-90233 over 647.00 EUR is in your own name. Which name should it have?",
    ),
    Exchange(
        "the company's name",
        "Okafor Design AB, Karlsgatan 14, please.",
        "change_invoice",
        {"invoice": "I-90233", "name": "Okafor Design AB", "street": "Karlsgatan 14"},
        {"invoice": "I-90233-B", "replaces": "I-90233"},
        "There is a new one, I-90233-B, which replaces the first.",
    ),
    Exchange(
        "the tax number",
        "The tax number is missing on it: SE556677889901.",
        "check_tax_number",
        {"number": "SE556677889901"},
        {"valid": True, "name": "Okafor Design AB"},
        "The number is valid and stands on the invoice now.",
    ),
    Exchange(
        "a copy by mail",
        "Can you send it to books@okafor.example as well?",
        "send_invoice",
        {"invoice": "I-90233-B", "to": "books@okafor.example"},
        {"sent": True},
        "Sent to books@okafor.example just now.",
    ),
    Exchange(
        "was the voucher counted",
        "I used the voucher SPRING10. Was it counted?",
        "lookup_payment",
        {"order": "48211"},
        {"paid": "582.30 EUR", "voucher": "SPRING10", "discount": "64.70 EUR"},
        "Yes, SPRING10 took off 64.70 EUR: you paid 582.30 EUR.",
    ),
    Exchange(
        "invoice after the refund",
        "Will the invoice change after the refund for the chair?",
        "credit_note",
        {"invoice": "I-90233-B", "refund": "R-7719"},
        {"credit_note": "C-3310", "amount": "149.00 EUR"},
        "The invoice stays, and credit note C-3310 over 149.00 EUR goes with it.",
    ),
    Exchange(
        "pay by invoice next time",
        "Could my company pay by invoice next time?",
        "credit_check",
        {"company": "Okafor Design AB"},
        {"approved": True, "limit": "2000.00 EUR", "days": 30},
        "Yes, up to 2000.00 EUR with thirty days to pay.",
    ),
    Exchange(
        "where all papers are",
        "Where do I find all these papers later?",
        "documents_link",
        {"customer": "okafor"},
        {"link": "https://lindholm.example/documents/okafor"},
        "All of them are at lindholm.example/documents/okafor.",
    ),
)
