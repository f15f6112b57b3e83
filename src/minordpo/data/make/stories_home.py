"""Stories of home, school and friends: each draws its numbers, works them out and returns the question.

Every `s.work(line, expression)` is one line of the solution, and the last one's result is the answer. Numbers
that come out uneven, negative or too small for a story are drawn again.
"""

from __future__ import annotations

from minordpo.data.make.word_problem import Sheet, require


def bakery(s: Sheet) -> str:
    who, goods = s.person(), s.pick("rolls", "muffins", "bagels", "scones")
    trays, per_tray, neighbours = s.between(3, 12), s.between(8, 24), s.between(3, 9)
    sold = s.between(10, trays * per_tray - 6)
    baked = s.work(f"{who.name} bakes {{}} {goods}.", f"{trays} * {per_tray}")
    left = s.work(f"After the market {who.she} has {{}} {goods} left.", f"{baked} - {sold}")
    s.work(f"Each neighbour gets {{}} {goods}.", f"{left} / {neighbours}")
    return (
        f"{who.name} bakes {trays} trays of {per_tray} {goods} on Saturday morning. {who.She} sells {sold} "
        f"of them at the market and shares the rest equally among {neighbours} neighbours. How many "
        f"{goods} does each neighbour get?"
    )


def savings(s: Sheet) -> str:
    who, thing = s.person(), s.pick("a backpack", "a board game", "a lamp", "a pair of boots", "a watch")
    weekly, weeks, gift = s.between(4, 25), s.between(5, 20), s.between(10, 60, step=5)
    price = s.between(12, 90)
    saved = s.work(f"{who.name} puts aside ${{}} in {weeks} weeks.", f"{weekly} * {weeks}")
    rest = s.work(f"After buying {thing} {who.she} has ${{}} left.", f"{saved} - {price}")
    s.work(f"With the present {who.she} has ${{}}.", f"{rest} + {gift}")
    return (
        f"{who.name} puts aside ${weekly} every week for {weeks} weeks. Then {who.she} buys {thing} for "
        f"${price}. On {who.her} birthday an uncle gives {who.name} ${gift}. How many dollars does "
        f"{who.name} have now?"
    )


def reading(s: Sheet) -> str:
    who, book = s.person(), s.pick("a novel", "a travel book", "a book about whales", "a biography")
    per_day, days, later = s.between(12, 40), s.between(3, 9), s.between(3, 9)
    pages = per_day * days + later * s.between(10, 45)
    read = s.work(f"In the first {days} days {who.name} reads {{}} pages.", f"{per_day} * {days}")
    left = s.work("There are {} pages left.", f"{pages} - {read}")
    s.work(f"{who.She} has to read {{}} pages a day.", f"{left} / {later}")
    return (
        f"{who.name} has borrowed {book} of {pages} pages. For {days} days {who.she} reads {per_day} pages "
        f"a day. The book is due in another {later} days. How many pages a day must {who.she} read from "
        "now on to finish it in time?"
    )


def garden(s: Sheet) -> str:
    who, plant = s.person(), s.pick("tomato", "pepper", "cucumber", "zucchini")
    beds, plants, per_plant, jar = s.between(2, 9), s.between(4, 14), s.between(5, 16), s.between(4, 15)
    fruit = {"tomato": "tomatoes", "zucchini": "zucchini"}.get(plant, f"{plant}s")
    grown = s.work(f"There are {{}} {plant} plants.", f"{beds} * {plants}")
    picked = s.work(f"They give {{}} {fruit}.", f"{grown} * {per_plant}")
    s.work(f"{who.name} fills {{}} jars.", f"{picked} / {jar}")
    return (
        f"{who.name} has {beds} garden beds with {plants} {plant} plants in each. Every plant gives "
        f"{per_plant} {fruit}. {jar} {fruit} go into one jar. How many jars can {who.name} fill?"
    )


def ages(s: Sheet) -> str:
    old, middle, young = s.people(3)
    age, gap, times = s.between(3, 14), s.between(2, 12), s.between(2, 5)
    word = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}[times]
    second = s.work(f"{middle.name} is {{}} years old.", f"{age} + {gap}")
    first = s.work(f"{old.name} is {{}} years old.", f"{times} * {second}")
    require(first <= 88)
    s.work("Together they are {} years old.", f"{age} + {second} + {first}")
    return (
        f"{old.name} is {word} as old as {middle.name}. {middle.name} is {gap} years older than "
        f"{young.name}, who is {age}. How old are the three of them together?"
    )


def marbles(s: Sheet) -> str:
    first, second, third = s.people(3)
    thing = s.pick("marbles", "stickers", "shells", "postcards", "coins")
    own, times, fewer = s.between(8, 40), s.between(2, 4), s.between(3, 20)
    more = s.work(f"{second.name} has {{}} {thing}.", f"{times} * {own}")
    less = s.work(f"{third.name} has {{}} {thing}.", f"{more} - {fewer}")
    s.work(f"Together they have {{}} {thing}.", f"{own} + {more} + {less}")
    word = {2: "twice", 3: "three times", 4: "four times"}[times]
    return (
        f"{first.name} has {own} {thing}. {second.name} has {word} as many {thing} as {first.name}, and "
        f"{third.name} has {fewer} fewer than {second.name}. How many {thing} do the three friends have "
        "together?"
    )


def pizza(s: Sheet) -> str:
    who, event = s.person(), s.pick("a birthday party", "a housewarming", "a team meeting", "a game night")
    guests, slices, cut, price = s.between(6, 40), s.between(2, 5), s.between(6, 12), s.between(7, 19)
    eaten = s.work("The guests eat {} slices.", f"{guests} * {slices}")
    pizzas = s.work(f"For that, {who.name} has to order {{}} pizzas.", f"{eaten} / {cut}")
    s.work("They cost ${}.", f"{pizzas} * {price}")
    return (
        f"{who.name} expects {guests} guests for {event}, and every guest will eat {slices} slices of "
        f"pizza. A pizza is cut into {cut} slices and costs ${price}. How many dollars does {who.name} "
        "spend if no slice is left over?"
    )


def album(s: Sheet) -> str:
    who, thing = s.person(), s.pick("stamps", "photos", "football cards", "pressed flowers")
    pages, per_page, away, new = s.between(5, 30), s.between(6, 16), s.between(2, 5), s.between(5, 48)
    stay = s.work(f"{{}} {thing} stay on every page.", f"{per_page} - {away}")
    kept = s.work(f"So {who.name} keeps {{}} {thing}.", f"{pages} * {stay}")
    s.work(f"With the new ones {who.she} has {{}} {thing}.", f"{kept} + {new}")
    return (
        f"{who.name} has an album of {pages} full pages with {per_page} {thing} on each. {who.She} gives "
        f"{away} {thing} from every page to a cousin and later gets {new} new ones. How many {thing} does "
        f"{who.name} have in the end?"
    )


def library(s: Sheet) -> str:
    kind = s.pick("novels", "comics", "picture books", "cookbooks")
    shelves, books, lent, back = s.between(6, 24), s.between(12, 40), s.between(30, 160), s.between(8, 60)
    require(back < lent)
    owned = s.work(f"The library owns {{}} {kind}.", f"{shelves} * {books}")
    inside = s.work(f"After lending there are {{}} {kind} on the shelves.", f"{owned} - {lent}")
    s.work(f"When some come back there are {{}} {kind}.", f"{inside} + {back}")
    return (
        f"A village library keeps its {kind} on {shelves} shelves with {books} {kind} on each. In July it "
        f"lends {lent} of them, and by August {back} of those have come back. How many {kind} are on the "
        "shelves then?"
    )


def practice(s: Sheet) -> str:
    who, instrument = s.person(), s.pick("the cello", "the piano", "the trumpet", "the drums", "the flute")
    weekday, weekend, weeks = s.between(15, 45, step=5), s.between(30, 90, step=5), s.between(3, 12)
    work_days = s.work(f"From Monday to Friday {who.name} plays for {{}} minutes.", f"5 * {weekday}")
    free_days = s.work(f"At the weekend {who.she} plays for {{}} minutes.", f"2 * {weekend}")
    week = s.work("In a whole week that makes {} minutes.", f"{work_days} + {free_days}")
    s.work(f"In {weeks} weeks it makes {{}} minutes.", f"{week} * {weeks}")
    return (
        f"From Monday to Friday {who.name} practises {instrument} for {weekday} minutes a day, on Saturday "
        f"and Sunday for {weekend} minutes a day. How many minutes does {who.she} practise in {weeks} "
        "weeks?"
    )


def recipe(s: Sheet) -> str:
    who, dish = s.person(), s.pick("pancakes", "dumplings", "flatbread", "waffles")
    people, times, grams, bags = (
        s.between(3, 8),
        s.between(2, 9),
        s.between(120, 450, step=10),
        s.between(2, 9),
    )
    guests = people * times
    factor = s.work(f"{who.name} cooks the recipe {{}} times.", f"{guests} / {people}")
    need = s.work("For that, {} grams of flour are needed.", f"{factor} * {grams}")
    have = s.work(f"{who.She} has {{}} grams of flour.", f"{bags} * 500")
    s.work("So {} grams are left over.", f"{have} - {need}")
    return (
        f"A recipe for {dish} feeds {people} people and takes {grams} grams of flour. {who.name} cooks for "
        f"{guests} people and has {bags} bags with 500 grams of flour each. How many grams of flour are "
        "left over?"
    )


def fundraiser(s: Sheet) -> str:
    aim = s.pick("a new swing", "a school trip", "an animal shelter", "a set of microscopes")
    first, extra, goal = s.between(40, 220), s.between(12, 120), s.between(400, 1200, step=50)
    second = s.work("The second class collects ${}.", f"{first} + {extra}")
    third = s.work("The third class collects ${}.", f"{second} / 2")
    total = s.work("Together they have ${}.", f"{first} + {second} + {third}")
    s.work("They still need ${}.", f"{goal} - {total}")
    return (
        f"Three classes want to raise ${goal} for {aim}. The first class collects ${first}, the second "
        f"${extra} more than the first, and the third half as much as the second. How many dollars do they "
        "still need?"
    )


def necklaces(s: Sheet) -> str:
    who, thing = s.person(), s.pick("necklace", "bracelet", "key ring", "curtain cord")
    rare, common = s.rng.sample(("red", "blue", "wooden", "glass", "silver", "clay"), 2)
    few, times, each = s.between(12, 60), s.between(2, 5), s.between(6, 30)
    word = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}[times]
    many = s.work(f"There are {{}} {common} beads.", f"{times} * {few}")
    beads = s.work(f"Altogether {who.name} has {{}} beads.", f"{few} + {many}")
    s.work(f"{who.She} can make {{}} {thing}s.", f"{beads} / {each}")
    return (
        f"{who.name} has {few} {rare} beads and {word} as many {common} ones. One {thing} takes {each} "
        f"beads of any kind. How many {thing}s can {who.name} make?"
    )


def swimming(s: Sheet) -> str:
    who, pool = s.person(), s.pick(25, 50)
    laps, days, goal = s.between(8, 40), s.between(3, 6), s.between(4000, 15000, step=500)
    daily = s.work(f"{who.name} swims {{}} metres a day.", f"{laps} * {pool}")
    weekly = s.work(f"In a week {who.she} swims {{}} metres.", f"{daily} * {days}")
    s.work(f"{who.She} is {{}} metres short of the goal.", f"{goal} - {weekly}")
    return (
        f"{who.name} wants to swim {goal} metres a week. On {days} days of the week {who.she} swims {laps} "
        f"laps of {pool} metres. How many metres is {who.name} short of the goal?"
    )


STORIES = (
    bakery,
    savings,
    reading,
    garden,
    ages,
    marbles,
    pizza,
    album,
    library,
    practice,
    recipe,
    fundraiser,
    necklaces,
    swimming,
)
