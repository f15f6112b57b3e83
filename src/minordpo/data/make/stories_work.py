"""Stories of work, travel and trade: each draws its numbers, works them out and returns the question.

Every `s.work(line, expression)` is one line of the solution, and the last one's result is the answer. Numbers
that come out uneven, negative or too small for a story are drawn again.
"""

from __future__ import annotations

from minordpo.data.make.word_problem import Sheet, require


def theatre(s: Sheet) -> str:
    show = s.pick("a play", "a concert", "a puppet show", "a film")
    rows, seats, price = s.between(6, 30), s.between(8, 26), s.between(4, 18)
    word, part = s.rng.choice((("a third", 3), ("a quarter", 4), ("a fifth", 5), ("a sixth", 6)))
    total = s.work("The hall has {} seats.", f"{rows} * {seats}")
    empty = s.work("Of these, {} seats stay empty.", f"{total} / {part}")
    taken = s.work("So {} seats are taken.", f"{total} - {empty}")
    s.work("The tickets bring in ${}.", f"{taken} * {price}")
    return (
        f"A hall has {rows} rows with {seats} seats in each row. At {show}, {word} of the seats stay "
        f"empty. Every visitor pays ${price} for a ticket. How many dollars do the tickets bring in?"
    )


def bus(s: Sheet) -> str:
    vehicle, place = (
        s.pick("bus", "tram", "ferry"),
        s.pick("the harbour", "the museum", "the old town", "the zoo"),
    )
    start, off, on = s.between(20, 70), s.between(4, 18), s.between(5, 24)
    word, part = s.rng.choice((("a third", 3), ("a quarter", 4), ("a fifth", 5)))
    stay = s.work(f"After some get off, {{}} passengers are on the {vehicle}.", f"{start} - {off}")
    ride = s.work(f"With the new ones there are {{}} passengers at {place}.", f"{stay} + {on}")
    leave = s.work("At the second stop {} passengers get off.", f"{ride} / {part}")
    s.work(f"So {{}} passengers are still on the {vehicle}.", f"{ride} - {leave}")
    return (
        f"A {vehicle} leaves with {start} passengers. At {place}, {off} of them get off and {on} others "
        f"get on. At the next stop {word} of all passengers get off and nobody gets on. How many "
        f"passengers are still on the {vehicle}?"
    )


def change(s: Sheet) -> str:
    who = s.person()
    first, second = s.rng.sample(("notebooks", "pens", "folders", "erasers", "rulers", "markers"), 2)
    a, b, p, q = s.between(2, 9), s.between(2, 9), s.between(2, 8), s.between(2, 8)
    cost = s.work(f"The {first} cost ${{}}.", f"{a} * {p}")
    other = s.work(f"The {second} cost ${{}}.", f"{b} * {q}")
    total = s.work(f"Together {who.name} owes ${{}}.", f"{cost} + {other}")
    note = next(note for note in (20, 50, 100, 200) if note > total)
    s.work(f"{who.She} gets back ${{}}.", f"{note} - {total}")
    bill = f"a ${note} bill" if note <= 100 else "two $100 bills"
    return (
        f"{who.name} buys {a} {first} at ${p} each and {b} {second} at ${q} each. {who.She} pays with "
        f"{bill}. How many dollars of change does {who.she} get?"
    )


def wages(s: Sheet) -> str:
    who, place = s.person(), s.pick("a bookshop", "a bike workshop", "a kitchen", "a nursery", "a print shop")
    hours, days, rate, bonus = s.between(3, 9), s.between(3, 6), s.between(9, 24), s.between(15, 80, step=5)
    worked = s.work(f"{who.name} works {{}} hours.", f"{hours} * {days}")
    pay = s.work(f"For these hours {who.she} earns ${{}}.", f"{worked} * {rate}")
    s.work(f"With the bonus {who.she} gets ${{}}.", f"{pay} + {bonus}")
    return (
        f"{who.name} works in {place} for {hours} hours a day on {days} days of the week and earns ${rate} "
        f"an hour. This week there is a bonus of ${bonus}. How many dollars does {who.name} get this week?"
    )


def tank(s: Sheet) -> str:
    vessel = s.pick("water tank", "swimming pool", "pond", "cistern")
    rate, minutes, slower = s.between(15, 60), s.between(6, 30), s.between(5, 24)
    volume = rate * minutes + slower * s.between(5, 40)
    filled = s.work(f"The first pump brings {{}} litres into the {vessel}.", f"{rate} * {minutes}")
    missing = s.work("Then {} litres are missing.", f"{volume} - {filled}")
    s.work("The second pump needs {} minutes for them.", f"{missing} / {slower}")
    return (
        f"A {vessel} that holds {volume} litres is empty. A pump that moves {rate} litres a minute runs "
        f"for {minutes} minutes and then breaks. Another pump takes over and moves {slower} litres a "
        f"minute. How many minutes does the second pump need to fill the {vessel}?"
    )


def tour(s: Sheet) -> str:
    who, way = s.person(), s.pick("around the lake", "along the coast", "to the border", "to the next city")
    fast, long, slow, short = s.between(14, 26), s.between(2, 5), s.between(9, 18), s.between(2, 4)
    length = fast * long + slow * short + s.between(6, 70)
    require(fast > slow)
    morning = s.work(f"In the morning {who.name} rides {{}} kilometres.", f"{fast} * {long}")
    afternoon = s.work(f"In the afternoon {who.she} rides {{}} kilometres.", f"{slow} * {short}")
    ridden = s.work("On this day that makes {} kilometres.", f"{morning} + {afternoon}")
    s.work("So {} kilometres are left.", f"{length} - {ridden}")
    return (
        f"The cycle path {way} is {length} kilometres long. In the morning {who.name} rides for {long} "
        f"hours at {fast} kilometres an hour, in the afternoon for {short} hours at {slow} kilometres an "
        "hour. How many kilometres are left?"
    )


def factory(s: Sheet) -> str:
    thing = s.pick("toys", "bulbs", "mugs", "candles", "buttons")
    machines, rate, hours, box = s.between(2, 9), s.between(10, 40), s.between(3, 9), s.between(4, 30)
    one_in = s.between(5, 20)
    hourly = s.work(f"The machines make {{}} {thing} an hour.", f"{machines} * {rate}")
    made = s.work(f"In {hours} hours they make {{}} {thing}.", f"{hourly} * {hours}")
    broken = s.work(f"Of these, {{}} {thing} are faulty.", f"{made} / {one_in}")
    good = s.work(f"That leaves {{}} good {thing}.", f"{made} - {broken}")
    s.work("They fill {} boxes.", f"{good} / {box}")
    return (
        f"In a factory {machines} machines each make {rate} {thing} an hour. On Monday they run for "
        f"{hours} hours. One in every {one_in} {thing} is faulty and thrown away, and the good ones are "
        f"packed into boxes of {box}. How many boxes are filled on Monday?"
    )


def fence(s: Sheet) -> str:
    owner, field = s.person(), s.pick("meadow", "orchard", "schoolyard", "paddock")
    width, times, price = s.between(8, 45), s.between(2, 4), s.between(3, 15)
    word = {2: "twice", 3: "three times", 4: "four times"}[times]
    length = s.work(f"The {field} is {{}} metres long.", f"{times} * {width}")
    half = s.work("One long and one short side measure {} metres.", f"{length} + {width}")
    around = s.work("All the way around it is {} metres.", f"2 * {half}")
    s.work("The fence costs ${}.", f"{around} * {price}")
    return (
        f"{owner.name} puts a fence around a rectangular {field}. It is {width} metres wide and {word} as "
        f"long as it is wide. A metre of fence costs ${price}. How many dollars does the whole fence cost?"
    )


def eggs(s: Sheet) -> str:
    who, birds = s.person(), s.pick("hens", "ducks", "quails")
    flock, used, carton, price = s.between(9, 60), s.between(2, 12), s.pick(6, 10, 12), s.between(2, 9)
    laid = s.work(f"The {birds} lay {{}} eggs in a week.", f"{flock} * 5")
    sold = s.work(f"After cooking, {who.name} has {{}} eggs to sell.", f"{laid} - {used}")
    cartons = s.work("They fill {} cartons.", f"{sold} / {carton}")
    s.work(f"{who.name} earns ${{}}.", f"{cartons} * {price}")
    return (
        f"{who.name} keeps {flock} {birds}, and each lays 5 eggs a week. {who.She} uses {used} eggs in the "
        f"kitchen and sells the rest in cartons of {carton} for ${price} a carton. How many dollars does "
        f"{who.she} earn in a week?"
    )


def discount(s: Sheet) -> str:
    who, thing = s.person(), s.pick("jackets", "blankets", "helmets", "chairs", "lamps")
    price, percent, count = s.between(20, 160, step=5), s.pick(10, 20, 25, 30, 40), s.between(2, 9)
    off = s.work("The discount on one is ${}.", f"{price} * {percent} / 100")
    reduced = s.work("So one costs ${}.", f"{price} - {off}")
    s.work("All of them cost ${}.", f"{reduced} * {count}")
    return (
        f"A shop takes {percent}% off all {thing}, which cost ${price} each before. {who.name} buys "
        f"{count} {thing} for the club. How many dollars does {who.name} pay?"
    )


def train(s: Sheet) -> str:
    coaches, seats, free = s.between(4, 14), s.between(36, 84, step=2), s.between(11, 140)
    goal = s.pick("the capital", "the seaside", "the mountains", "the airport")
    total = s.work("The train has {} seats.", f"{coaches} * {seats}")
    s.work("So {} passengers are seated.", f"{total} - {free}")
    return (
        f"A train to {goal} has {coaches} coaches with {seats} seats each. {free} seats are free and "
        "nobody has to stand. How many passengers are on the train?"
    )


def orchard(s: Sheet) -> str:
    who, fruit = s.person(), s.pick("apples", "pears", "plums", "quinces")
    trees, kilos, lost, price = s.between(5, 28), s.between(12, 45), s.between(10, 120), s.between(2, 6)
    picked = s.work(f"The trees give {{}} kilograms of {fruit}.", f"{trees} * {kilos}")
    good = s.work("Of these, {} kilograms can be sold.", f"{picked} - {lost}")
    s.work(f"{who.name} takes in ${{}}.", f"{good} * {price}")
    return (
        f"{who.name} harvests {trees} trees, and each gives {kilos} kilograms of {fruit}. A hailstorm has "
        f"spoiled {lost} kilograms of the harvest. The rest is sold at ${price} a kilogram. How many "
        f"dollars does {who.name} take in?"
    )


def parcels(s: Sheet) -> str:
    who, thing = s.person(), s.pick("parcels", "letters", "newspapers", "meals")
    streets, houses, rate = s.between(3, 9), s.between(8, 30), s.between(12, 40)
    stops = s.work(f"{who.name} has to stop at {{}} houses.", f"{streets} * {houses}")
    items = s.work(f"That makes {{}} {thing}.", f"{stops} * 2")
    s.work(f"{who.She} needs {{}} hours.", f"{items} / {rate}")
    require(s.results[-1] <= 12)
    return (
        f"{who.name} brings 2 {thing} to every house in {streets} streets with {houses} houses each. In an "
        f"hour {who.she} delivers {rate} {thing}. How many hours does {who.name} need?"
    )


STORIES = (
    theatre,
    bus,
    change,
    wages,
    tank,
    tour,
    factory,
    fence,
    eggs,
    discount,
    train,
    orchard,
    parcels,
)
