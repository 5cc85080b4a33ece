"""The vocabulary of things: which words the models know and which drawings show them.

One line is one word (a class): `word = label | label | ...`, the labels being the names that
emojibase-data gives to the emoji. Without `=` the label is the word itself. Several labels under one
word are several drawings of the same kind of thing. Words are single words, so that naming is one
token. Irregular plurals stand in PLURALS.
"""

CATEGORIES = {
    "animal": """
        monkey = monkey face | monkey
        dog = dog face | dog
        fox
        cat = cat face | cat
        lion
        tiger = tiger face | tiger
        horse = horse face | horse
        unicorn
        zebra
        cow = cow face | cow
        pig = pig face | pig
        giraffe
        elephant
        mouse = mouse face | mouse
        rabbit = rabbit face | rabbit
        bear
        koala
        panda
        chick = baby chick | front-facing baby chick
        penguin
        duck
        owl
        flamingo
        frog
        crocodile
        turtle
        snake
        whale = spouting whale | whale
        fish = fish | tropical fish
        octopus
        crab
        snail
        butterfly
        bee = honeybee
        ladybug = lady beetle
        spider
    """,
    "plant": """
        rose
        sunflower
        tulip
        tree = deciduous tree
        cactus
        mushroom
        clover = four leaf clover | shamrock
    """,
    "food": """
        grape = grapes
        watermelon
        lemon
        banana
        pineapple
        apple = red apple | green apple
        cherry = cherries
        strawberry
        tomato
        carrot
        corn = ear of corn
        bread
        cheese = cheese wedge
        burger = hamburger
        pizza
        hotdog = hot dog
        egg
        donut = doughnut
        cookie
        cake = birthday cake | shortcake
    """,
    "vehicle": """
        train
        bus = bus | oncoming bus
        ambulance
        car = automobile | oncoming automobile | sport utility vehicle
        truck = delivery truck | articulated lorry
        bicycle
        sailboat
        plane = airplane | small airplane
        helicopter
        rocket
        ufo = flying saucer
    """,
    "building": """
        house = house | house with garden
        castle
        tent
    """,
    "clothing": """
        shirt = t-shirt
        dress
        shoe = man’s shoe | running shoe
        crown
        hat = top hat | woman’s hat
        backpack
    """,
    "instrument": """
        trumpet
        guitar
        piano = musical keyboard
        violin
        drum
    """,
    "tool": """
        hammer
        wrench
        magnet
        ladder
        pencil
        bomb
    """,
    "object": """
        anchor
        clock = alarm clock | mantelpiece clock
        moon = crescent moon
        sun = sun | sun with face
        star
        cloud
        rainbow
        umbrella = umbrella | umbrella with rain drops
        snowman = snowman | snowman without snow
        fire
        pumpkin = jack-o-lantern
        balloon
        gift = wrapped gift
        trophy
        ball = soccer ball
        basketball
        target = bullseye
        dice = game die
        ring
        bell
        phone = mobile phone
        laptop
        camera = camera | camera with flash
        television
        candle
        bulb = light bulb
        cup = hot beverage
        beer = beer mug
        book = closed book | green book | blue book | orange book
        envelope
        lock = locked
        key = key | old key
        chair
        skull
        ghost
        alien
        robot
        heart = red heart | orange heart | yellow heart | green heart | blue heart | purple heart | brown heart | black heart | white heart
        eye
    """,
}

SHAPES = ["circle", "square", "triangle", "diamond", "cross", "hexagon"]

COLOURS = {
    "red": (220, 40, 40), "orange": (245, 140, 30), "yellow": (250, 215, 50), "green": (50, 160, 70),
    "blue": (45, 95, 215), "purple": (135, 60, 175), "pink": (245, 145, 190), "brown": (125, 80, 45),
    "black": (25, 25, 28), "white": (248, 248, 248), "gray": (135, 135, 138),
}

PLURALS = {
    "wolf": "wolves", "deer": "deer", "sheep": "sheep", "mouse": "mice", "fish": "fish", "leaf": "leaves", "shrimp": "shrimp", "squid": "squid",
    "knife": "knives", "scarf": "scarves", "foot": "feet", "tooth": "teeth", "dice": "dice",
    "bacon": "bacon", "popcorn": "popcorn", "sushi": "sushi", "corn": "corn", "bread": "bread",
    "broccoli": "broccoli", "garlic": "garlic", "yarn": "yarn", "thread": "thread",
}


def plural(word):
    """The plural of a word of this vocabulary."""
    if word in PLURALS:
        return PLURALS[word]
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    if word in ("tomato", "potato", "mango", "mosquito", "volcano", "tornado", "avocado"):
        return word + ("es" if word in ("tomato", "potato", "mosquito", "volcano", "tornado") else "s")
    return word + "s"


def article(word):
    return "an" if word[0] in "aeiou" and word not in ("unicorn", "ufo") else "a"


def load():
    """[(word, category, [labels])], in a fixed order: the class numbers follow it. Shapes come last."""
    out = []
    for category, block in CATEGORIES.items():
        for line in block.strip().splitlines():
            word, _, labels = (part.strip() for part in line.strip().partition("="))
            out.append((word, category, [l.strip() for l in labels.split("|")] if labels else [word]))
    out += [(shape, "shape", []) for shape in SHAPES]
    assert len({word for word, _, _ in out}) == len(out), "a word stands twice"
    return out
