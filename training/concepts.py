"""The things the bundled CLIP knows: one name each, its synonyms, and the code points that draw it.

The first `CORE_COUNT` concepts are the ones that the benchmark of scenes asks for.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Concept:
    """A thing with a name.

    `codes` are Unicode code points in lower-case hexadecimal; each is one drawing per style.
    """

    name: str
    codes: tuple[str, ...]
    synonyms: tuple[str, ...] = ()


# name: code points: synonyms
_CORE_TABLE = """
dog: 1f415 1f436: puppy, dog face, hound
cat: 1f408 1f431: kitten, cat face, kitty
horse: 1f40e 1f434: pony, horse face, mare
cow: 1f404 1f42e: cow face, cattle
sheep: 1f411: lamb, ewe
pig: 1f416 1f437: pig face, hog, swine
elephant: 1f418:
tiger: 1f405 1f42f: tiger face
zebra: 1f993: zebra face
giraffe: 1f992: giraffe face
rabbit: 1f407 1f430: bunny, rabbit face, hare
penguin: 1f427:
duck: 1f986: mallard
fish: 1f41f 1f420: tropical fish
butterfly: 1f98b:
turtle: 1f422: tortoise
snake: 1f40d: serpent
car: 1f697 1f699 1f698: automobile, sedan
bus: 1f68c 1f68d: coach, school bus
bicycle: 1f6b2: bike, cycle
motorcycle: 1f3cd: motorbike
airplane: 2708 1f6e9: plane, aeroplane, aircraft, jet
boat: 26f5 1f6a4 1f6e5 1f6a2: sailboat, ship, yacht, motor boat
train: 1f686 1f682 1f684: locomotive, steam engine
rocket: 1f680: spaceship, space rocket
chair: 1fa91: seat
television: 1f4fa: tv, television set, tv monitor
house: 1f3e0 1f3e1: home, cottage
tree: 1f333 1f332: deciduous tree, evergreen tree
cactus: 1f335:
pizza: 1f355: slice of pizza
apple: 1f34e 1f34f: red apple
banana: 1f34c: bananas
strawberry: 1f353:
carrot: 1f955:
umbrella: 2614 2602: parasol
guitar: 1f3b8: electric guitar
soccer ball: 26bd: football, ball
laptop: 1f4bb: laptop computer, computer
candle: 1f56f:
"""

_MORE_TABLE = """
lion: 1f981: lion face
bear: 1f43b: bear face
monkey: 1f412 1f435: monkey face
mouse: 1f401 1f42d 1f400: rat, mouse face
bird: 1f426: songbird
chicken: 1f414 1f413: hen, rooster
frog: 1f438: frog face, toad
owl: 1f989:
whale: 1f433 1f40b: spouting whale
dolphin: 1f42c:
octopus: 1f419:
crab: 1f980:
bee: 1f41d: honeybee
snail: 1f40c:
spider: 1f577:
camel: 1f42a 1f42b: dromedary
truck: 1f69a 1f69b: lorry, delivery truck
helicopter: 1f681:
tractor: 1f69c:
bed: 1f6cf:
couch: 1f6cb: sofa, couch and lamp
clock: 23f0 1f570: alarm clock
book: 1f4d5 1f4d7 1f4d8: closed book
bottle: 1f37e 1f37c: champagne bottle
cup: 2615: coffee cup, mug, coffee
wine glass: 1f377: glass of wine
hamburger: 1f354: burger
cake: 1f382 1f370: birthday cake
ice cream: 1f366 1f368:
donut: 1f369: doughnut
bread: 1f35e: loaf of bread
grapes: 1f347: bunch of grapes
watermelon: 1f349:
pineapple: 1f34d:
lemon: 1f34b:
orange: 1f34a: tangerine
tomato: 1f345:
corn: 1f33d: ear of corn
mushroom: 1f344: toadstool
sunflower: 1f33b: flower
rose: 1f339:
palm tree: 1f334: palm
key: 1f511:
hammer: 1f528:
scissors: 2702:
camera: 1f4f7:
telephone: 260e: phone
light bulb: 1f4a1: bulb
balloon: 1f388:
gift: 1f381: present, wrapped gift
basketball: 1f3c0:
drum: 1f941:
violin: 1f3bb: fiddle
hat: 1f3a9 1f452: top hat
shoe: 1f45f 1f45e: sneaker
dress: 1f457:
shirt: 1f455: t-shirt
glasses: 1f453: eyeglasses
backpack: 1f392: school bag
crown: 1f451:
traffic light: 1f6a6 1f6a5: stoplight
snowman: 26c4 2603:
teddy bear: 1f9f8:
potted plant: 1fab4: house plant
"""


def _parse(table: str) -> tuple[Concept, ...]:
    rows = [line.split(":") for line in table.strip().splitlines()]
    return tuple(
        Concept(
            name=name.strip(),
            codes=tuple(codes.split()),
            synonyms=tuple(word.strip() for word in synonyms.split(",") if word.strip()),
        )
        for name, codes, synonyms in rows
    )


CORE_CONCEPTS = _parse(_CORE_TABLE)
CORE_COUNT = len(CORE_CONCEPTS)
CONCEPTS = CORE_CONCEPTS + _parse(_MORE_TABLE)

# Texts that name no object. "tree" and "house" are background texts of the paper but objects here.
BACKGROUND_TEXTS = (
    *("ground", "land", "grass", "building", "wall", "sky", "lake", "water", "river", "sea", "railway"),
    *("railroad", "helmet", "cloud", "mountain", "ocean", "road", "rock", "street", "valley", "bridge"),
    *("background", "nothing", "empty scene", "plain background", "blank", "pattern", "texture", "colour"),
)

# sRGB, 0 to 255
COLORS = {
    "red": (214, 40, 40),
    "orange": (245, 130, 32),
    "yellow": (250, 210, 40),
    "green": (60, 160, 70),
    "blue": (45, 100, 210),
    "purple": (130, 70, 180),
    "pink": (245, 140, 190),
    "brown": (125, 80, 50),
    "black": (35, 35, 40),
    "white": (245, 245, 245),
    "gray": (140, 140, 145),
}
