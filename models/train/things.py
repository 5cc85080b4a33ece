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
        sheep = ewe | ram
        goat
        camel = camel | two-hump camel
        llama
        deer
        wolf
        raccoon
        leopard
        gorilla
        rhino = rhinoceros
        hippo = hippopotamus
        squirrel = chipmunk
        hedgehog
        beaver
        bat
        sloth
        skunk
        kangaroo
        turkey
        rooster = rooster | chicken
        bird
        eagle
        swan
        peacock
        parrot
        lizard
        dragon = dragon face | dragon
        dinosaur = sauropod | T-Rex
        dolphin
        shark
        seal
        lobster
        shrimp
        squid
        ant
        beetle
        scorpion
    """,
    "plant": """
        rose
        sunflower
        tulip
        tree = deciduous tree
        cactus
        mushroom
        clover = four leaf clover | shamrock
        bouquet
        pine = evergreen tree
        palm = palm tree
        leaf = maple leaf | fallen leaf
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
        melon
        mango
        pear
        peach
        blueberry = blueberries
        kiwi = kiwi fruit
        coconut
        avocado
        eggplant
        potato
        pepper = hot pepper | bell pepper
        cucumber
        broccoli
        garlic
        onion
        peanut = peanuts
        croissant
        pretzel
        pancake = pancakes
        waffle
        bacon
        sandwich
        taco
        salad = green salad
        popcorn
        sushi
        cupcake
        pie
        chocolate = chocolate bar
        candy
        lollipop
        honey = honey pot
        milk = glass of milk
        teapot
        wine = wine glass
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
        tractor
        motorcycle
        scooter = kick scooter | motor scooter
        taxi = taxi | oncoming taxi
        firetruck = fire engine
        tram = tram | tram car
        ship = ship | passenger ship
        canoe
        skateboard
        parachute
        wheelchair = manual wheelchair
    """,
    "building": """
        house = house | house with garden
        castle
        tent
        church
        school
        hospital
        hotel
        factory
        fountain
    """,
    "clothing": """
        shirt = t-shirt
        dress
        shoe = man’s shoe | running shoe
        crown
        hat = top hat | woman’s hat
        backpack
        tie = necktie
        scarf
        glove = gloves
        coat
        sock = socks
        purse
        boot = woman’s boot | hiking boot
        sandal = woman’s sandal | thong sandal
        cap = billed cap
        helmet = rescue worker’s helmet
    """,
    "instrument": """
        trumpet
        guitar
        piano = musical keyboard
        violin
        drum
        saxophone
        accordion
    """,
    "tool": """
        hammer
        wrench
        magnet
        ladder
        pencil
        bomb
        axe
        saw = carpentry saw
        screwdriver
        broom
        bucket
        pen
        crayon
        paintbrush
        ruler = straight ruler
        pushpin = pushpin | round pushpin
        flashlight
        microscope
        telescope
        dagger
        shield
        gear
        scale = balance scale
        spoon
        knife = kitchen knife
        toothbrush
        basket
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
        volcano
        mountain = mountain | snow-capped mountain
        snowflake
        tornado
        planet = ringed planet
        globe = globe showing Europe-Africa | globe showing Americas | globe showing Asia-Australia
        ribbon
        medal = sports medal | military medal
        baseball
        volleyball
        football = american football
        frisbee = flying disc
        kite
        skate = ice skate
        puzzle = puzzle piece
        teddy = teddy bear
        palette = artist palette
        yarn
        gem = gem stone
        megaphone
        microphone
        headphone
        radio
        telephone
        battery
        computer = desktop computer
        printer
        keyboard
        lantern = red paper lantern
        newspaper
        coin
        mailbox = closed mailbox with raised flag | closed mailbox with lowered flag | open mailbox with raised flag | open mailbox with lowered flag
        stethoscope
        door
        mirror
        window
        bed
        toilet
        suitcase = luggage
        hourglass = hourglass done | hourglass not done
        watch
        bone
        brain
        tooth
        ear
        nose
        foot
        hand = raised hand
        face = grinning face | slightly smiling face | beaming face with smiling eyes | neutral face
        clown = clown face
        baby
    """,
}

SHAPES = ["circle", "square", "triangle", "diamond", "cross", "hexagon"]

COLOURS = {
    "red": (220, 40, 40), "orange": (245, 140, 30), "yellow": (250, 215, 50), "green": (50, 160, 70),
    "blue": (45, 95, 215), "purple": (135, 60, 175), "pink": (245, 145, 190), "brown": (125, 80, 45),
    "black": (25, 25, 28), "white": (248, 248, 248), "gray": (135, 135, 138),
}

PLURALS = {
    "snowman": "snowmen",
    "wolf": "wolves", "deer": "deer", "sheep": "sheep", "mouse": "mice", "fish": "fish", "leaf": "leaves", "shrimp": "shrimp", "squid": "squid",
    "knife": "knives", "scarf": "scarves", "foot": "feet", "tooth": "teeth", "dice": "dice",
    "bacon": "bacon", "popcorn": "popcorn", "sushi": "sushi", "corn": "corn", "bread": "bread",
    "broccoli": "broccoli", "garlic": "garlic", "yarn": "yarn", "chocolate": "chocolate", "honey": "honey", "milk": "milk", "wine": "wine",
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
