"""The vocabulary of the generated websites: which words belong to which tone, and the sentences they are put into.

All tones share the same sentences and the same trades; only the words in the slots differ. So a tone can be told from
its words alone, a site with few such words is honestly hard, and counting words (`tone_by_counting`) is an independent
judge of what a model wrote.
"""

from __future__ import annotations

import random
import re

from hybrid_core.models.website.labels import TONES

# tone -> slot -> words; no word belongs to two tones
TONE_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "playful": {
        "adjective": ("giggly", "bouncy", "silly", "cheeky", "bubbly", "zingy", "wobbly", "ticklish"),
        "verb": ("wiggle", "juggle", "tickle", "splash", "hop", "doodle"),
        "benefit": ("belly laughs", "happy dances", "snack breaks", "pillow fights", "confetti", "high fives"),
        "action": ("Let us play", "Join the party", "Spin the wheel", "Boop here"),
    },
    "formal": {
        "adjective": ("esteemed", "accredited", "prudent", "statutory", "distinguished", "impartial", "orderly", "due"),
        "verb": ("administer", "certify", "uphold", "regulate", "commission", "ratify"),
        "benefit": ("compliance", "due diligence", "proper governance", "legal certainty", "discretion", "probity"),
        "action": ("Request a consultation", "Submit an enquiry", "Contact our office", "Apply in writing"),
    },
    "luxurious": {
        "adjective": ("exquisite", "opulent", "bespoke", "gilded", "sumptuous", "rarefied", "velvet", "heirloom"),
        "verb": ("curate", "adorn", "embellish", "hallmark", "handcraft", "indulge"),
        "benefit": ("timeless elegance", "private viewings", "rare provenance", "splendour", "grandeur", "couture"),
        "action": ("Reserve your piece", "Enter the atelier", "Discover the collection", "Request an invitation"),
    },
    "technical": {
        "adjective": ("modular", "calibrated", "scalable", "redundant", "deterministic", "versioned", "typed", "tuned"),
        "verb": ("deploy", "compile", "benchmark", "parse", "index", "instrument"),
        "benefit": ("low latency", "full throughput", "clean interfaces", "open schemas", "uptime", "telemetry"),
        "action": ("Read the docs", "Get an API key", "Run the demo", "View the changelog"),
    },
    "warm": {
        "adjective": ("cosy", "homemade", "gentle-hearted", "neighbourly", "kind", "huggable", "sunlit", "beloved"),
        "verb": ("nurture", "welcome", "cherish", "comfort", "gather", "embrace"),
        "benefit": ("family dinners", "open arms", "shared stories", "lasting friendship", "belonging", "cups of tea"),
        "action": ("Come on in", "Say hello", "Sit down with us", "Meet the family"),
    },
    "bold": {
        "adjective": ("fearless", "unstoppable", "mighty", "explosive", "relentless", "massive", "fierce", "epic"),
        "verb": ("conquer", "crush", "ignite", "dominate", "launch", "smash"),
        "benefit": ("raw power", "total victory", "record speed", "big wins", "glory", "full force"),
        "action": ("Go all in", "Start now", "Dare to win", "Take the lead"),
    },
    "calm": {
        "adjective": ("quiet", "serene", "unhurried", "weightless", "still", "soft-spoken", "misty", "mindful"),
        "verb": ("breathe", "soothe", "rest", "linger", "settle", "unwind"),
        "benefit": ("deep sleep", "slow mornings", "empty space", "inner peace", "balance", "silence"),
        "action": ("Take a moment", "Begin gently", "Pause here", "Drift along"),
    },
    "rebellious": {
        "adjective": ("outlawed", "scruffy", "feral", "defiant", "unlicensed", "noisy", "crooked", "punk"),
        "verb": ("hijack", "scrawl", "riot", "sabotage", "defy", "unplug"),
        "benefit": ("broken rules", "loud basements", "zero permission", "torn posters", "mischief", "trouble"),
        "action": ("Break in", "Join the uprising", "Skip the line", "Burn the manual"),
    },
}
NEUTRAL_WORDS: dict[str, tuple[str, ...]] = {
    "adjective": ("new", "local", "daily", "simple", "good", "fresh", "well-made", "useful", "our own", "ready"),
    "verb": ("make", "offer", "bring", "choose", "sell", "build", "send", "prepare"),
    "benefit": ("good value", "fair prices", "quick delivery", "a wide choice", "spare parts", "opening hours"),
    "action": ("Learn more", "See the range", "Shop now", "Find out how"),
}
# A neighbour's words slip into a text; words of the opposite make it inconsistent.
NEIGHBOUR = {"playful": "warm", "formal": "technical", "luxurious": "calm", "bold": "rebellious"}
NEIGHBOUR |= {second: first for first, second in NEIGHBOUR.items()}
OPPOSITE = {"playful": "formal", "luxurious": "rebellious", "technical": "warm", "bold": "calm"}
OPPOSITE |= {second: first for first, second in OPPOSITE.items()}

TRADES: dict[str, tuple[str, ...]] = {
    "coffee": ("coffee", "beans", "espresso", "roasts"),
    "bicycles": ("bicycles", "frames", "wheels", "saddles"),
    "software": ("software", "dashboards", "queues", "reports"),
    "books": ("books", "novels", "atlases", "poems"),
    "gardens": ("gardens", "seeds", "orchards", "ferns"),
    "watches": ("watches", "clocks", "dials", "straps"),
    "music": ("records", "guitars", "concerts", "speakers"),
    "furniture": ("chairs", "tables", "lamps", "shelves"),
    "travel": ("journeys", "trains", "harbours", "maps"),
    "bakery": ("bread", "cakes", "pastries", "flour"),
}
HEADLINES = (
    "{Adjective} {thing} for {adjective} people",
    "{Verb} {thing}. Expect {benefit}",
    "{Thing} and {benefit}",
    "We {verb} {adjective} {thing}",
    "{Name}: {adjective} {thing}",
    "{Benefit}, one {adjective} day at a time",
)
SENTENCES = (
    "At {Name} we {verb} {adjective} {thing} for {benefit}.",
    "Our {adjective} {thing} are about {benefit}.",
    "You {verb}, we {verb}, and the {thing} stay {adjective}.",
    "From {adjective} {thing} to {benefit}: this is {Name}.",
    "We {verb} {thing} until they are {adjective}.",
    "Think of {benefit}, {benefit} and {adjective} {thing}.",
    "Every week we {verb} {adjective} {thing} in town.",
    "{Adjective} {thing}, {adjective} hands and {benefit}.",
)
SECTION_TITLES = ("{Adjective} {thing}", "How we {verb}", "{Benefit}", "{Thing} this week", "{Adjective} by design")
_PATTERNS = {
    tone: re.compile(rf"\b(?:{'|'.join(re.escape(w) for words in slots.values() for w in words)})\b", re.IGNORECASE)
    for tone, slots in TONE_WORDS.items()
}
_SLOT = re.compile(r"\{(\w+)\}")
_SYLLABLES = ("lo", "mar", "ven", "ti", "kor", "ba", "shi", "nel", "or", "qua", "zim", "del", "fa", "ru", "pex", "hol")


def make_name(random_source: random.Random) -> str:
    """A brand name of two or three syllables."""
    return "".join(random_source.choices(_SYLLABLES, k=random_source.choice((2, 2, 3)))).capitalize()


def fill(pattern: str, name: str, trade: str, tone: str, strength: float, random_source: random.Random) -> str:
    """Put words into the slots: of the tone with probability `strength`, of its neighbour with a third of it."""

    def choose(match: re.Match[str]) -> str:
        slot = match[1].lower()
        word = name if slot == "name" else _word(slot, trade, tone, strength, random_source)
        return word[0].upper() + word[1:] if match[1][0].isupper() else word

    return _SLOT.sub(choose, pattern)


def _word(slot: str, trade: str, tone: str, strength: float, random_source: random.Random) -> str:
    if slot == "thing":
        return random_source.choice(TRADES[trade])
    dice = random_source.random()
    if dice < strength:
        return random_source.choice(TONE_WORDS[tone][slot])
    if dice < strength * 4 / 3:
        return random_source.choice(TONE_WORDS[NEIGHBOUR[tone]][slot])
    return random_source.choice(NEUTRAL_WORDS[slot])


def count_tones(text: str) -> dict[str, int]:
    """How many of each tone's words a text holds, whatever their case."""
    return {tone: len(pattern.findall(text)) for tone, pattern in _PATTERNS.items()}


def tone_by_counting(text: str) -> str | None:
    """The tone with the most words in the text; None where no tone has any."""
    counts = count_tones(text)
    best = max(TONES, key=lambda tone: counts[tone])
    return best if counts[best] else None
