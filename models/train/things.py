"""The vocabulary of things: which words the models know and which drawings show them.

One line is one word (a class): `word = label | label | ...`, the labels being the names that
emojibase-data gives to the emoji. Without `=` the label is the word itself. Several labels under one
word are several drawings of the same kind of thing. Words are single words, so that naming is one
token. Irregular plurals stand in PLURALS.
"""

CATEGORIES = {
    "animal": """
        monkey = monkey face | monkey
        gorilla
        dog = dog face | dog
        wolf
        fox
        raccoon
        cat = cat face | cat
        lion
        tiger = tiger face | tiger
        leopard
        horse = horse face | horse
        unicorn
        zebra
        deer
        cow = cow face | cow
        pig = pig face | pig
        sheep = ewe | ram
        goat
        camel = camel | two-hump camel
        llama
        giraffe
        elephant
        rhino = rhinoceros
        hippo = hippopotamus
        mouse = mouse face | mouse
        rabbit = rabbit face | rabbit
        squirrel = chipmunk
        hedgehog
        bat
        bear
        koala
        panda
        kangaroo
        sloth
        otter
        skunk
        badger
        turkey
        chicken
        rooster
        chick = baby chick | front-facing baby chick
        bird
        penguin
        dove
        eagle
        duck
        swan
        owl
        flamingo
        peacock
        parrot
        frog
        crocodile
        turtle
        lizard
        snake
        dragon = dragon face | dragon
        dinosaur = sauropod | T-Rex
        whale = spouting whale | whale
        dolphin
        fish = fish | tropical fish
        shark
        octopus
        crab
        lobster
        shrimp
        squid
        snail
        butterfly
        caterpillar = bug
        ant
        bee = honeybee
        ladybug = lady beetle
        spider
        scorpion
        mosquito
    """,
    "plant": """
        rose
        sunflower
        tulip
        tree = deciduous tree
        pine = evergreen tree
        palm = palm tree
        cactus
        mushroom
        clover = four leaf clover | shamrock
        leaf = maple leaf | fallen leaf
    """,
    "food": """
        grape = grapes
        melon
        watermelon
        tangerine
        lemon
        banana
        pineapple
        mango
        apple = red apple | green apple
        pear
        peach
        cherry = cherries
        strawberry
        kiwi = kiwi fruit
        tomato
        coconut
        avocado
        eggplant
        potato
        carrot
        corn = ear of corn
        pepper = bell pepper | hot pepper
        cucumber
        broccoli
        garlic
        onion
        peanut = peanuts
        chestnut
        bread
        croissant
        baguette = baguette bread
        pretzel
        bagel
        pancake = pancakes
        waffle
        cheese = cheese wedge
        bacon
        burger = hamburger
        pizza
        hotdog = hot dog
        sandwich
        taco
        burrito
        egg
        popcorn
        sushi
        donut = doughnut
        cookie
        cake = birthday cake | shortcake
        cupcake
        pie
        chocolate = chocolate bar
        candy
        lollipop
    """,
    "vehicle": """
        train
        locomotive
        tram
        bus = bus | oncoming bus
        ambulance
        firetruck = fire engine
        taxi = taxi | oncoming taxi
        car = automobile | oncoming automobile | sport utility vehicle
        truck = delivery truck | articulated lorry
        tractor
        motorcycle
        scooter = motor scooter
        bicycle
        skateboard
        sailboat
        canoe
        speedboat
        ship = passenger ship | ship
        plane = airplane | small airplane
        helicopter
        rocket
        ufo = flying saucer
        satellite
    """,
    "building": """
        house = house | house with garden
        hospital
        factory
        castle
        church
        mosque
        tent
        hut
    """,
    "clothing": """
        shirt = t-shirt
        tie = necktie
        scarf
        coat
        sock = socks
        glove = gloves
        dress
        kimono
        bikini
        shoe = man’s shoe | running shoe
        boot = woman’s boot | hiking boot
        crown
        hat = top hat | woman’s hat
        cap = billed cap
        backpack
        handbag = handbag | purse
    """,
    "instrument": """
        saxophone
        trumpet
        accordion
        guitar
        piano = musical keyboard
        violin
        banjo
        drum
    """,
    "tool": """
        hammer
        axe
        dagger
        saw = carpentry saw
        wrench
        screwdriver
        bolt = nut and bolt
        gear
        magnet
        ladder
        microscope
        telescope
        syringe
        broom
        spoon
        knife = kitchen knife
        ruler = straight ruler
        pencil
        pen
        brush = paintbrush
        crayon
        paperclip
        shield
        bow = bow and arrow
        boomerang
        bomb
    """,
    "object": """
        volcano
        mountain = mountain | snow-capped mountain
        fountain
        wheel
        anchor
        parachute
        suitcase = luggage
        hourglass = hourglass done | hourglass not done
        watch
        clock = alarm clock | mantelpiece clock
        moon = crescent moon
        sun = sun | sun with face
        planet = ringed planet
        star
        cloud
        tornado
        rainbow
        umbrella = umbrella | umbrella with rain drops
        snowflake
        snowman = snowman | snowman without snow
        fire
        drop = droplet
        pumpkin = jack-o-lantern
        balloon
        gift = wrapped gift
        ribbon
        trophy
        medal = sports medal | military medal
        ball = soccer ball
        baseball
        basketball
        football = american football
        volleyball
        kite
        target = bullseye
        dice = game die
        puzzle = puzzle piece
        teddy = teddy bear
        joystick
        gamepad = video game
        palette = artist palette
        yarn
        thread
        lipstick
        ring
        gem = gem stone
        megaphone
        bell
        microphone
        headphone
        radio
        phone = mobile phone
        telephone
        battery
        plug = electric plug
        laptop
        computer = desktop computer
        printer
        camera = camera | camera with flash
        television
        candle
        bulb = light bulb
        flashlight
        lantern = red paper lantern
        teapot
        cup = hot beverage
        beer = beer mug
        wineglass = wine glass
        cocktail = cocktail glass
        book = closed book | green book | blue book | orange book
        newspaper
        scroll
        coin
        envelope
        mailbox = closed mailbox with raised flag
        box = package
        briefcase
        folder = file folder
        calendar
        clipboard
        pin = pushpin
        lock = locked
        key = key | old key
        pill
        door
        bed
        sofa = couch and lamp
        chair
        toilet
        bathtub
        basket
        bucket
        sponge
        toothbrush
        cart = shopping cart
        cigarette
        coffin
        skull
        ghost
        alien
        robot
        clown = clown face
        heart = red heart | orange heart | yellow heart | green heart | blue heart | purple heart | brown heart | black heart | white heart
        hand = raised hand
        ear
        nose
        brain
        tooth
        bone
        eye
        tongue
        mouth
        foot
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

CATEGORY_PLURALS = {}


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
