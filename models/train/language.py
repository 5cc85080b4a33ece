"""What is said about a scene: captions, questions with answers, true and false statements.

Every function takes the scene and the random generator. Words are lower case and whole, so that each
is one token in the vocabularies that tokenizers.py builds from `all_words()`.
"""
import numpy as np

import things
from scenes import CATEGORY, COLOURS, FIRST_SHAPE, N_CLASSES, SIZE, WORDS

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six"]
CATEGORIES = ["animal", "plant", "food", "vehicle", "building", "clothing", "instrument", "tool", "shape"]
COUNTABLE = {"animal": "animals", "plant": "plants", "vehicle": "vehicles", "building": "buildings",
             "instrument": "instruments", "tool": "tools", "shape": "shapes"}
OF_CATEGORY = {c: [i for i in range(N_CLASSES) if CATEGORY[i] == c] for c in set(CATEGORY)}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
GAP = 6                                   # pixels by which two centres must differ in one direction


# -- facts ---------------------------------------------------------------------------------------

ENTRY = np.arange(SIZE) + .3 * np.arange(SIZE)[:, None]


def kinds_of(scene):
    """[(class, colour or -1, [things])]; equal things of one colour together, in the order in which one meets them coming from
    the left and a little from above.

    Whose first pixel that is can be seen at one place. Ordered by the middles of the groups, which can not, a captioner often
    looked at two things at once when it had to choose the first, and named a third that was a bit of both.
    """
    groups, met = {}, {}
    for number, thing in enumerate(scene.things):
        key = thing.cls, thing.colour
        groups.setdefault(key, []).append(thing)
        met[key] = min(met.get(key, np.inf), ENTRY[scene.owner == number].min(initial=np.inf))
    return [(*key, groups[key]) for key in sorted(groups, key=met.get)]


def relation(a, b):
    """How the things of list a lie to those of list b, if that is plain: left, right, above, below."""
    ax, ay = np.mean([t.x for t in a]), np.mean([t.y for t in a])
    bx, by = np.mean([t.x for t in b]), np.mean([t.y for t in b])
    dx, dy = ax - bx, ay - by
    if max(t.x for t in a) + GAP < min(t.x for t in b) and abs(dx) > abs(dy) * .8:
        return "left"
    if min(t.x for t in a) > max(t.x for t in b) + GAP and abs(dx) > abs(dy) * .8:
        return "right"
    if max(t.y for t in a) + GAP < min(t.y for t in b) and abs(dy) > abs(dx) * .8:
        return "above"
    if min(t.y for t in a) > max(t.y for t in b) + GAP and abs(dy) > abs(dx) * .8:
        return "below"
    return None


def signature(scene):
    """What a caption fixes: the multiset of kinds. Two scenes of one signature fit each other's captions."""
    return tuple(sorted((t.cls, t.colour) for t in scene.things))


# -- phrases -------------------------------------------------------------------------------------

def phrase(cls, colour, n, coloured=True):
    tint = COLOURS[colour] + " " if colour >= 0 and coloured else ""
    if n == 1:
        first = tint.strip() or WORDS[cls]
        return f"{things.article(first)} {tint}{WORDS[cls]}"
    return f"{NUMBERS[n]} {tint}{things.plural(WORDS[cls])}"


def listing(parts):
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


RELATION_PHRASE = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}


def caption(scene, rng, plain=False):
    """A sentence that names every kind of thing with its number. `plain`: the one standard wording."""
    groups = kinds_of(scene)
    if not groups:
        text = "an empty picture"
    else:
        text = None
        if len(groups) == 2 and (plain or rng.random() < .75):
            (c1, k1, a), (c2, k2, b) = groups
            how = relation(a, b)
            if how:
                text = f"{phrase(c1, k1, len(a))} {RELATION_PHRASE[how]} {phrase(c2, k2, len(b))}"
        if text is None:
            text = listing([phrase(c, k, len(m)) for c, k, m in groups])
    if scene.background >= 0 and groups and (plain or rng.random() < .5):
        tint = COLOURS[scene.background]
        text += f" on {things.article(tint)} {tint} background"
    return text


def short_text(scene, rng):
    """For retrieval and classification: labels, the usual templates, or a caption."""
    kinds = sorted({t.cls for t in scene.things})
    kind = rng.random()
    if len(kinds) == 1 and kind < .55:
        group = kinds_of(scene)
        if len(group) == 1:
            cls, colour, members = group[0]
            one = phrase(cls, colour, len(members), coloured=rng.random() < .6)
            bare = rng.random()
            if bare < .5:
                return ["a photo of ", "a picture of ", "an image of "][int(rng.choice(3, p=[.7, .2, .1]))] + one
            if bare < .7 and len(members) == 1:
                return one.split(" ", 1)[1]
            return one
    text = caption(scene, rng)
    return ["a picture of ", "a photo of "][int(rng.integers(2))] + text if scene.things and rng.random() < .2 else text


# -- questions -----------------------------------------------------------------------------------

def pick(rng, options):
    return options[int(rng.integers(len(options)))]


def absent_class(scene, rng):
    """A class that is not shown, half the time one of the same category as something shown."""
    shown = {t.cls for t in scene.things}
    for _ in range(50):
        if shown and rng.random() < .5:
            cls = pick(rng, OF_CATEGORY[CATEGORY[pick(rng, sorted(shown))]])
        else:
            cls = int(rng.integers(N_CLASSES))
        if cls not in shown:
            return cls
    return next(c for c in range(N_CLASSES) if c not in shown)


def q_what(scene, rng):
    kinds = sorted({t.cls for t in scene.things})
    options = []
    if len(kinds) == 1:
        one = len(scene.things) == 1
        options += [(q, WORDS[kinds[0]]) for q in
                    (["what is this?", "what is in the picture?", "what is shown?", "what is in the image?",
                      "what do you see?"] if one else ["what is in the picture?", "what is shown?", "what are these?",
                                                       "what do you see?"])]
    for category in CATEGORIES[:-1]:
        of = [k for k in kinds if CATEGORY[k] == category]
        if len(of) == 1:
            name = {"clothing": "piece of clothing", "food": "food"}.get(category, category)
            options += [(f"{pick(rng, ['which', 'what'])} {name} is {pick(rng, ['this', 'in the picture', 'there'])}?", WORDS[of[0]])]
    shapes = [k for k in kinds if k >= FIRST_SHAPE]
    if len(shapes) == 1:
        options += [(f"{pick(rng, ['which', 'what'])} shape is {pick(rng, ['this', 'in the picture', 'there'])}?", WORDS[shapes[0]])]
    return pick(rng, options) if options else None


def q_beside(scene, rng):
    """What lies to the left of the cat? What is on the left?"""
    if len(scene.things) < 2:
        return None
    order = rng.permutation(len(scene.things))
    for i in order:
        anchor = scene.things[i]
        if sum(t.cls == anchor.cls for t in scene.things) > 1:
            continue
        for side in rng.permutation(["left", "right", "above", "below"]):
            there = [t for t in scene.things if t is not anchor and relation([t], [anchor]) == side]
            loose = {"left": [t for t in scene.things if t is not anchor and t.x < anchor.x],
                     "right": [t for t in scene.things if t is not anchor and t.x > anchor.x],
                     "above": [t for t in scene.things if t is not anchor and t.y < anchor.y],
                     "below": [t for t in scene.things if t is not anchor and t.y > anchor.y]}[side]
            if there and len({t.cls for t in loose}) == 1:
                return f"what is {RELATION_PHRASE[side]} the {WORDS[anchor.cls]}?", WORDS[there[0].cls]
    if len(scene.things) == 2:
        a, b = scene.things
        how = relation([a], [b])
        if how and a.cls != b.cls:
            return {"left": "what is on the left?", "right": "what is on the right?", "above": "what is at the top?",
                    "below": "what is at the bottom?"}[how], WORDS[a.cls]
    return None


def q_count(scene, rng):
    kind = rng.random()
    if kind < .15 or not scene.things:
        return pick(rng, ["how many things are there?", "how many objects are in the picture?", "how many things do you see?"]), str(len(scene.things))
    if kind < .28:
        category = pick(rng, [CATEGORY[t.cls] for t in scene.things]) if rng.random() < .8 else pick(rng, list(COUNTABLE))
        if category in COUNTABLE:
            n = sum(CATEGORY[t.cls] == category for t in scene.things)
            return f"how many {COUNTABLE[category]} {pick(rng, ['are there', 'are in the picture'])}?", str(n)
    if kind < .36:
        cls, n = absent_class(scene, rng), 0
    else:
        kinds = sorted({t.cls for t in scene.things})
        many = [k for k in kinds if sum(t.cls == k for t in scene.things) > 1]
        cls = pick(rng, many) if many and rng.random() < .6 else pick(rng, kinds)
        n = sum(t.cls == cls for t in scene.things)
    return f"how many {things.plural(WORDS[cls])} {pick(rng, ['are there', 'are there', 'are in the picture', 'do you see', 'can you see'])}?", str(n)


def q_colour(scene, rng):
    word = pick(rng, ["color", "color", "colour"])
    tinted = {}
    for t in scene.things:
        tinted.setdefault(t.cls, set()).add(t.colour)
    options = [(cls, next(iter(c))) for cls, c in tinted.items() if len(c) == 1 and -1 not in c]
    if options and (scene.background < 0 or rng.random() < .7):
        cls, colour = pick(rng, options)
        if sum(t.cls == cls for t in scene.things) == 1:
            return f"what {word} is the {WORDS[cls]}?", COLOURS[colour]
        return f"what {word} are the {things.plural(WORDS[cls])}?", COLOURS[colour]
    if scene.background >= 0:
        return f"what {word} is the background?", COLOURS[scene.background]
    return None


def q_where(scene, rng):
    alone = [t for t in scene.things if sum(u.cls == t.cls for u in scene.things) == 1]
    if not alone:
        return None
    thing = pick(rng, alone)
    others = [t for t in alone if t is not thing]
    if others and rng.random() < .5:
        other = pick(rng, others)
        how = relation([thing], [other])
        if how:
            return f"where is the {WORDS[thing.cls]} {pick(rng, ['relative to', 'compared to'])} the {WORDS[other.cls]}?", how
    dx, dy = thing.x / SIZE - .5, thing.y / SIZE - .5
    if max(abs(dx), abs(dy)) < .07:
        answer = "center"
    elif abs(dx) > .13 and abs(dx) > 1.4 * abs(dy):
        answer = "left" if dx < 0 else "right"
    elif abs(dy) > .13 and abs(dy) > 1.4 * abs(dx):
        answer = "top" if dy < 0 else "bottom"
    else:
        return None
    return pick(rng, [f"where is the {WORDS[thing.cls]}?", f"where in the picture is the {WORDS[thing.cls]}?"]), answer


def q_yesno(scene, rng):
    """Presence (balanced), the relation of two things, or a colour."""
    kind = rng.random()
    yes = rng.random() < .5
    if kind < .25 and len(scene.things) > 1:
        alone = [t for t in scene.things if sum(u.cls == t.cls for u in scene.things) == 1]
        if len(alone) > 1:
            i, j = rng.permutation(len(alone))[:2]
            how = relation([alone[i]], [alone[j]])
            if how:
                said = how if yes else OPPOSITE[how]
                return f"is the {WORDS[alone[i].cls]} {RELATION_PHRASE[said]} the {WORDS[alone[j].cls]}?", "yes" if yes else "no"
    if kind < .35:
        tinted = [t for t in scene.things if t.colour >= 0 and sum(u.cls == t.cls for u in scene.things) == 1]
        if tinted:
            t = pick(rng, tinted)
            colour = t.colour if yes else pick(rng, [c for c in range(len(COLOURS)) if c != t.colour])
            return f"is the {WORDS[t.cls]} {COLOURS[colour]}?", "yes" if yes else "no"
    if kind < .47:
        shown = {CATEGORY[t.cls] for t in scene.things} & set(COUNTABLE)
        hidden = set(COUNTABLE) - shown
        if shown if yes else hidden:
            category = pick(rng, sorted(shown if yes else hidden))
            return f"is there {things.article(category)} {category}{pick(rng, ['', ' in the picture'])}?", "yes" if yes else "no"
    if not scene.things:
        yes = False
    cls = pick(rng, sorted({t.cls for t in scene.things})) if yes else absent_class(scene, rng)
    one, many = WORDS[cls], things.plural(WORDS[cls])
    return pick(rng, [f"is there {things.article(one)} {one}?", f"is there {things.article(one)} {one} in the picture?",
                      f"is there {things.article(one)} {one} in the image?", f"are there any {many}?",
                      f"do you see {things.article(one)} {one}?", f"can you see {things.article(one)} {one}?"]), "yes" if yes else "no"


def q_compare(scene, rng):
    kinds = sorted({t.cls for t in scene.things})
    if not kinds:
        return None
    first = pick(rng, kinds)
    others = [k for k in kinds if k != first]
    second = pick(rng, others) if others and rng.random() < .8 else absent_class(scene, rng)
    word = pick(rng, ["more", "more", "fewer"])
    yes = rng.random() < .5
    n = [sum(t.cls == k for t in scene.things) for k in (first, second)]
    if n[0] == n[1]:
        if rng.random() < .5:
            return f"are there as many {things.plural(WORDS[first])} as {things.plural(WORDS[second])}?", "yes"
        return f"are there {word} {things.plural(WORDS[first])} than {things.plural(WORDS[second])}?", "no"
    if (n[0] > n[1]) != (yes == (word == "more")):
        first, second = second, first
    return f"are there {word} {things.plural(WORDS[first])} than {things.plural(WORDS[second])}?", "yes" if yes else "no"


QUESTIONS = {"what": q_what, "beside": q_beside, "count": q_count, "colour": q_colour, "where": q_where,
             "yes/no": q_yesno, "compare": q_compare}
SHARES = np.array([.17, .14, .18, .09, .17, .18, .07])


def question(scene, rng):
    """(kind, question, answer)"""
    while True:
        kind = list(QUESTIONS)[int(rng.choice(len(SHARES), p=SHARES))]
        made = QUESTIONS[kind](scene, rng)
        if made:
            return kind, made[0], str(made[1])


# -- true and false statements --------------------------------------------------------------------

def false_caption(scene, rng):
    """A caption that is almost right: one thing, number, colour or relation is changed."""
    groups = kinds_of(scene)
    if not groups:
        return f"{things.article(WORDS[0])} {WORDS[0]}"
    entries = [[c, k, len(m)] for c, k, m in groups]
    ways = ["thing", "thing", "number"]
    how = relation(groups[0][2], groups[1][2]) if len(groups) == 2 else None
    if how:
        ways += ["relation", "relation"]
    if any(k >= 0 for _, k, _ in entries):
        ways.append("colour")
    way = pick(rng, ways)
    row = int(rng.integers(len(entries)))
    if way == "thing":
        cls = absent_class(scene, rng)
        entries[row][0] = cls
        entries[row][1] = int(rng.integers(len(COLOURS))) if cls >= FIRST_SHAPE else -1
    elif way == "number":
        n = entries[row][2]
        entries[row][2] = int(pick(rng, [m for m in (n - 1, n + 1, n + 2) if 1 <= m <= 6 and m != n]))
    elif way == "colour":
        row = pick(rng, [i for i, e in enumerate(entries) if e[1] >= 0])
        taken = {e[1] for e in entries if e[0] == entries[row][0]}
        entries[row][1] = pick(rng, [c for c in range(len(COLOURS)) if c not in taken])
    if how and (way == "relation" or rng.random() < .7):
        said = OPPOSITE[how] if way == "relation" else how
        text = f"{phrase(*entries[0])} {RELATION_PHRASE[said]} {phrase(*entries[1])}"
    else:
        text = listing([phrase(*e) for e in entries])
    if scene.background >= 0 and rng.random() < .5:
        tint = COLOURS[scene.background]
        text += f" on {things.article(tint)} {tint} background"
    return "a picture of " + text if rng.random() < .12 else text


def statement(scene, other, rng):
    """(text, fits): half of them fit; the others are almost right or belong to the other scene."""
    if rng.random() < .5:
        return short_text(scene, rng), 1
    if rng.random() < .3 and signature(other) != signature(scene) and other.things and scene.things:
        counts = {}
        for t in scene.things:
            counts[t.cls] = counts.get(t.cls, 0) + 1
        if any(t.cls not in counts for t in other.things):
            return short_text(other, rng), 0
    return false_caption(scene, rng), 0


def all_words():
    """Every word that the sentences above can hold, in a fixed order."""
    out = []
    for i, word in enumerate(WORDS):
        out += [word, things.plural(word)]
    out += COLOURS + NUMBERS + CATEGORIES + list(COUNTABLE.values()) + [str(n) for n in range(10)]
    out += """a an the of on in to and or with is are there this that these what which where how many more fewer less as than any
        do does you see can picture image photo photograph background left right above below top bottom center middle
        relative compared color colour yes no piece thing things object objects shown empty it at all side next
        no-one people person man woman child small big large drawing emoji show shows plain cartoon
        not contain present rectangle teal""".split()
    out += ["?", ",", ".", "!", "'", "-", ":"]
    return list(dict.fromkeys(w for w in out if w != "no-one"))


if __name__ == "__main__":
    import sys
    from scenes import Composer
    composer, rng = Composer(sys.argv[1]), np.random.default_rng(5)
    words = set(all_words())
    for i in range(int(sys.argv[2]) if len(sys.argv) > 2 else 12):
        scene = composer.compose(rng)
        texts = [caption(scene, rng), caption(scene, rng, plain=True), short_text(scene, rng)]
        asked = [question(scene, rng) for _ in range(5)]
        wrong = false_caption(scene, rng)
        for text in texts + [wrong] + [q for _, q, _ in asked] + [a for _, _, a in asked]:
            for word in text.replace("?", " ?").replace(",", " ,").split():
                assert word in words, (word, text)
        if i < 12:
            print(*texts, "| FALSE:", wrong, "|", *[f"{q} {a};" for _, q, a in asked], "\n")
