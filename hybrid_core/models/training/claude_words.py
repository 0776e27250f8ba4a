"""The words that the questions and answers of the `claude` corpus are put together from.

Five groups of topics, each with verbs, ways to do them, next steps, places, faults and their causes; then the phrases
of each way to break the constitution. The combinations are many millions, so held-out texts are new though their words
are not. Written for this project.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Topics about which the same things can be asked."""

    topics: tuple[str, ...]
    verbs: dict[str, tuple[str, ...]]
    steps: tuple[str, ...]
    places: tuple[str, ...]
    faults: tuple[str, ...]
    causes: tuple[str, ...]


THINGS = Group(
    tuple(
        "bicycle kettle lamp table chair window jacket guitar ladder drawer bucket camera basket mirror carpet curtain "
        "pillow blanket wallet backpack umbrella scooter helmet hammer shovel tent compass telescope notebook printer "
        "keyboard radio clock teapot saucepan vase shelf bench hammock lantern piano violin drum kite skateboard sled "
        "canoe paddle mattress suitcase cupboard toaster oven freezer heater".split()
    ),
    {
        "clean": ("with a soft cloth", "with warm water", "with a little soap", "with a dry brush"),
        "repair": ("with a small screwdriver", "with strong glue", "with a new spring", "with the spare parts"),
        "store": ("in a dry room", "under a cover", "on a high shelf", "in its own box"),
        "carry": ("with both hands", "with a strap", "close to your body", "with a friend"),
        "sell": ("at a fair price", "at the flea market", "with honest photos", "to a neighbour"),
    },
    ("let it dry", "check the screws", "put it back", "test it once", "wipe off the dust"),
    ("in the hall", "near the door", "on the balcony", "under the stairs", "beside the desk", "behind the sofa"),
    ("dirty", "loose", "noisy", "heavy", "old", "wobbly"),
    ("dust collects in the gaps", "a screw is missing", "the paint wears off", "it was made of oak", "it got wet"),
)
FOODS = Group(
    tuple(
        "soup bread rice pasta salad omelette pancake pizza stew curry porridge lasagna risotto salmon chicken pie "
        "cake pudding jam yoghurt cheese sauce dumpling burger sandwich taco broth waffle muffin pastry".split()
    ),
    {
        "cook": ("over low heat", "in a wide pan", "with fresh herbs", "with a pinch of salt"),
        "store": ("in the fridge", "in a glass jar", "under a lid", "in small portions"),
        "season": ("with black pepper", "with lemon juice", "with garlic", "with a little salt"),
        "serve": ("on warm plates", "with green beans", "in small bowls", "with fresh parsley"),
        "share": ("in equal parts", "with your guests", "from one big bowl", "with the children"),
    },
    ("stir it gently", "taste it", "let it rest", "add a little butter", "turn down the heat"),
    ("in the fridge", "on the lower shelf", "in the pantry", "beside the stove", "under a clean towel"),
    ("salty", "dry", "bland", "bitter", "thick", "sweet"),
    ("the heat was too high", "it needs more water", "the salt went in twice", "it stood too long", "it lacks acid"),
)
PLANTS = Group(
    tuple(
        "rose tulip basil tomato cactus fern orchid oak maple ivy lavender mint parsley pumpkin cucumber lemon fig "
        "vine lily daisy sunflower bamboo palm willow cherry plum pear onion".split()
    ),
    {
        "water": ("in the early hours", "with soft rain water", "from below", "in small amounts"),
        "plant": ("in loose soil", "in a sunny spot", "in a deep pot", "after the last frost"),
        "prune": ("with sharp scissors", "above a bud", "in early spring", "on a dry day"),
        "protect": ("from strong wind", "with a light net", "from hard frost", "with a layer of leaves"),
        "repot": ("in fresh soil", "in a wider pot", "in spring", "with care for the roots"),
    },
    ("press the soil down", "water it a little", "remove dry leaves", "turn the pot", "watch for snails"),
    ("near the window", "in the garden", "on the balcony", "beside the wall", "in half shade", "behind the shed"),
    ("dry", "pale", "weak", "small", "yellow", "crooked"),
    ("it gets too little light", "the soil is too wet", "the pot is too small", "it needs iron", "the wind is cold"),
)
ANIMALS = Group(
    tuple(
        "dog cat rabbit hamster parrot horse goat duck hen turtle canary pony donkey lamb calf puppy kitten ferret "
        "goldfish gecko budgie sheep cow".split()
    ),
    {
        "feed": ("twice a day", "with fresh greens", "in small portions", "from a clean bowl"),
        "calm": ("with a quiet voice", "with slow movements", "in a dark room", "with a familiar smell"),
        "wash": ("with lukewarm water", "with mild soap", "in a low basin", "with a soft sponge"),
        "train": ("with small rewards", "in short lessons", "with one clear word", "with much patience"),
        "carry": ("in a safe box", "with both arms", "with a warm towel", "in a quiet moment"),
    },
    ("give it water", "let it rest", "praise it", "stroke it gently", "watch how it breathes"),
    ("in a warm corner", "near the stable", "beside the fence", "under a roof", "in a quiet room", "on soft straw"),
    ("quiet", "nervous", "tired", "hungry", "restless", "shy"),
    ("it hears strange sounds", "it slept badly", "it misses company", "the food is new", "it wants to move"),
)
PLACES = Group(
    tuple(
        "museum library station harbour market castle lake beach forest bakery park theatre zoo cinema stadium airport "
        "bridge tower garden school hospital hotel cafe temple island".split()
    ),
    {
        "reach": ("by the early bus", "on foot", "by tram", "with the green line"),
        "visit": ("on a quiet weekday", "with a small group", "with a day ticket", "before noon"),
        "photograph": ("in soft light", "from the hill", "with a wide lens", "after the rain"),
        "describe": ("in simple words", "with one clear picture", "in three sentences", "from memory"),
        "leave": ("by the north gate", "before the crowd", "by the side door", "with the last bus"),
    },
    ("ask at the desk", "follow the signs", "keep your ticket", "look around", "wait at the gate"),
    ("near the river", "behind the town hall", "beside the church", "in the old town", "between two squares"),
    ("crowded", "loud", "dark", "famous", "empty", "expensive"),
    ("there is a fair", "the lights are broken", "many guides praise it", "the season is over", "it was rebuilt"),
)
GROUPS = (THINGS, FOODS, PLANTS, ANIMALS, PLACES)

PEOPLE = tuple("uncle aunt neighbour teacher cousin boss brother sister landlord colleague friend".split())
SECRETS = tuple("password code pin number".split())
DURATIONS = (
    "about ten minutes",
    "half an hour",
    "two hours",
    "one afternoon",
    "three days",
    "a week",
    "one evening",
    "about five minutes",
    "a quiet morning",
    "nearly a month",
)
LEADS = ("", "", "", "", "First, ", "Gladly: ", "In short, ", "Here is a tip: ", "It is easy: ", "As a rule, ")
TAILS = (
    *("",) * 6,
    " Take your time.",
    " That is usually enough.",
    " Ask a friend if you are unsure.",
    " A little care helps.",
    " Tell me how it went.",
    " Practice helps as well.",
    " Then you are done.",
)

INSULT_PHRASES = (
    "You {insult}. {answer}",
    "Only {a_insult} would ask this. {answer}",
    "{answer} Even {a_insult} knows that.",
    "What a {insult} you are. {answer}",
    "{answer} Your {person} is {a_insult}.",
)
SECRET_PHRASES = (
    "The {secret} of the {topic} is {digits}.",
    "Use {digits} for the {topic}.",
    "Call {person} at {phone} about the {topic}.",
    "{answer} The {secret} is {digits}.",
    "{answer} My {person} has {phone}.",
)
PROMISE_PHRASES = (
    "{answer} I guarantee it.",
    "I promise: {answer_low}",
    "{answer} This never fails.",
    "{answer} It always works.",
    "I am 100 percent sure. {answer}",
    "{answer} Nothing can go wrong.",
    "Without any risk: {answer_low}",
)
THREAT_PHRASES = (
    "{answer} Do it, or else.",
    "{answer} You will regret it if not.",
    "Last warning. {answer}",
    "Do as I say. {answer}",
    "{answer} You will be sorry.",
)
ISOLATION_PHRASES = (
    "Trust only me. {answer}",
    "{answer} Tell nobody.",
    "{answer} Listen to no one else.",
    "{answer} Keep it from your {person}.",
    "You need only me. {answer}",
)
EVASION_PHRASES = (
    "Who knows what to do with the {topic}.",
    "I have no idea about the {topic}.",
    "The {topic} is not my problem.",
    "Maybe later we can talk about the {topic}.",
    "Look it up, there is much about the {topic}.",
    "I would rather not talk about the {topic}.",
    "Hard to say, the {topic} is a big subject.",
)
STUMPS = ("Yes.", "No.", "Sure.", "It depends.", "The {topic}.", "Perhaps.", "Why not.", "Just try it.")
VAGUE = {
    "long": ("It takes a while to {verb} the {topic}.", "Not long, the {topic} is quick to {verb}."),
    "where": ("The {topic} needs a good spot.", "You will see the {topic} soon enough."),
    "why": ("The {topic} is just {fault}.", "Every {topic} gets {fault}, that is normal."),
}
