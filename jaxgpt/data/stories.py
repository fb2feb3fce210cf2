"""The bundled corpus: short stories from a grammar, so the loss no model can beat is known.

A story remembers: its hero's name and pronouns, the pet, the town, the thing packed at the start
that solves the problem it was made for; the place decides what is found there, the trait the moral.
A slot is named by an example of what may fill it, and "Lily 3" weighs three times "Ida". Change a
word or a weight, and the corpus and its entropy follow.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from jaxgpt.data.grammar import Grammar, by, one_of
from jaxgpt.fields import check

# Looks, colors and doings start with a consonant, so that "a" is right before each of them.
LOOKS = """little 4, small 3, tiny 3, big 2, huge 2, round 2, plain 2, pretty 2, lovely 2,
    strange 2, beautiful 2, charming, curious 2, famous 2, secret, lonely 3, quiet 2, silent,
    noisy 2, cheerful 2, merry, gloomy 2, sleepy 2, friendly 2, funny 2, silly, proud, humble,
    noble, royal, magic 2, dirty, dusty, muddy, shiny 2, bright, pale, dark, striped, spotted,
    rare, simple, special, perfect, wonderful 2, fine 2, splendid, crooked, wild, tidy, messy,
    fancy, gentle, jolly, new, smooth, fluffy, fuzzy, lazy, lucky, mighty, nervous, playful, tall,
    wise, young, shy, sweet, wobbly, cozy, tough, sad, poor, tired, timid, weak, thin, nice, grand,
    lost, bold"""
ANIMALS = """dog 3, cat 3, mouse 2, pony 2, goat 2, duck 2, pig 2, rabbit 2, hen, lamb, goose,
    crow, frog 2, bee, snail, toad, robin, hare, monkey, elephant, camel, zebra, tiger, lion,
    panda, hippo, spider, worm, crab, swan, owl, fox 2, bear 2, wolf 2, deer, mole, otter, beaver,
    badger, penguin, seal, whale, snake, bull, sheep, dragon 3, troll, mule, robot, ghost,
    monster, bat, unicorn, parrot"""
WONDERS = """kings, queens, pirates, dragons, knights, ghosts, giants, robots, stars, clouds,
    ships, boats, trains, kites, rockets, bells, drums, balloons, hats, shoes, socks, maps, boxes,
    books, clocks, flags, towers, castles, tents, trees, roses, shells, mushrooms, apples, pears,
    berries, pumpkins, melons, cakes, eggs, songs, games, stories, jokes, secrets, birds, horses,
    bees"""
COLORS = """red 3, blue 3, green 2, yellow 2, purple, pink, white 2, brown, golden, silver, gray,
    black 2, scarlet, violet, crimson, turquoise, rosy, snowy"""
FOODS = """bread 2, cheese 2, soup 2, rice, noodles, pancakes, pie 2, potatoes, cookies, cake 2,
    muffins, eggs, toast, beans, stew, pasta, pizza, corn, salad, fish, jam, honey, butter, nuts,
    peas, carrots, pears, plums"""
TASTES = """warm 3, fresh 2, cold 2, tasty 2, plain, spicy, salty, rich, sweet 2, soft, sticky,
    golden, burnt, smoky, sour, mild, hot, frozen, crunchy, good 2, dry, fine, yummy, strong,
    simple, strange"""
NUMBERS = """two 2, three 2, four 2, five 2, six, seven 2, eight, nine, ten, eleven, twelve,
    twenty, thirty, forty, fifty, ninety"""

STORIES = Grammar(
    {
        # Who: the name says whether it is a girl or a boy, and that says the pronouns.
        "child": one_of("girl, boy"),
        "hero": by(
            "child",
            girl="Lily 3, Anna 3, Mia 3, Ella 2, Nora 2, Rosa, Zoe, Ida",
            boy="Tom 3, Ben 3, Leo 3, Sam 2, Max 2, Finn, Otto, Kofi",
        ),
        "she": by("child", girl="she", boy="he"),
        "She": by("child", girl="She", boy="He"),
        "her": by("child", girl="her", boy="his"),
        "Her": by("child", girl="Her", boy="His"),
        "him": by("child", girl="her", boy="him"),
        "daughter": by("child", girl="daughter 4, niece 2, sister", boy="son 4, nephew 2, brother"),
        "trait": one_of("""kind 4, brave 4, clever 3, curious 3, patient 2, cheerful 2, careful 2,
            generous 2"""),
        "baker": one_of("""baker 2, miller 2, farmer 2, tailor, sailor 2, gardener, teacher,
            doctor 2, weaver, potter, shepherd, cook, painter, hunter, king 2, pirate 2, wizard 2,
            mayor, barber, butcher, dentist, captain, pilot, lawyer, dancer, singer, duke, knight,
            merchant, printer, tinker, guard"""),
        "fern": one_of("""Fern, Apple, Oak, Willow, Honey, Rose, Stone, Silver, Winter, Summer,
            Moon, Star, River, Swan, Fox, Otter, Butter, Cherry, Cloud, Eagle, Frost, Goose, Mint,
            North, South, Pine, Plum, Sugar, Thunder, Water, Wolf, Bell"""),
        "wick": one_of("""ton 2, wick 2, field 2, ford 2, dale 2, bury, ham, port, brook, wood,
            well, bridge, hill, gate, land, side"""),
        "town": one_of("{fern}{wick}"),
        "once": one_of("""Once upon a time 5, Long ago 4, Many years ago 3, Last year 2,
            One year 2, In the old days 2, Some time ago 2, Not long ago 2, Far away 2"""),
        "opening": one_of(
            {
                "{once}, in {town}, lived {hero}, the {baker}'s {trait} {daughter}.": 4,
                "{once}, {hero}, the {baker}'s {trait} {daughter}, lived in {town}.": 4,
                "{once}, a {baker}'s {trait} {daughter} named {hero} lived in {town}.": 2,
            }
        ),
        # The pet.
        "look": one_of(LOOKS),
        "fur": one_of(COLORS),
        "pet": one_of(ANIMALS),
        "friend": one_of("Pip 3, Biscuit 2, Pepper 2, Button 2, Muffin, Patch, Toffee, Rocket"),
        "loved": one_of("""loved 4, liked 3, hated 2, feared 2, adored 2, collected, watched,
            wanted, dreamed of, disliked, enjoyed 2, painted, chased, sold, studied"""),
        "love": one_of(WONDERS),
        "companion": one_of(
            {
                "{Her} {look} {fur} {pet} {friend} {loved} {love}.": 4,
                "{She} had a {look} {fur} {pet} named {friend} that {loved} {love}.": 2,
                "With {him} lived {friend}, a {look} {fur} {pet} that {loved} {love}.": 1,
            }
        ),
        # The outing: the season, never named, ties the weather to the month.
        "season": one_of("spring 3, summer 4, autumn 3, winter 3"),
        "weather": by(
            "season",
            spring="rainy 3, mild 2, breezy 2, fresh 2, misty 1, bright 2, showery 1",
            summer="sunny 4, hot 3, warm 3, bright 2, golden 1, stormy 1, dry 1",
            autumn="windy 3, foggy 3, misty 2, gray 2, rainy 2, cool 2, stormy 1",
            winter="snowy 4, cold 3, frosty 3, freezing 2, white 1, bitter 1, crisp 1",
        ),
        "month": by(
            "season",
            spring="March, April, May",
            summer="June, July, August",
            autumn="September, October, November",
            winter="December, January, February",
        ),
        "day": one_of({str(day): 1 for day in range(1, 29)}),
        "time": one_of("""morning 3, afternoon 2, evening 2, day 2, Monday, Tuesday, Wednesday,
            Thursday, Friday, Saturday 2, Sunday 2, holiday"""),
        "walked": one_of("""walked 3, went 3, ran 2, hurried 2, wandered 2, strolled, skipped,
            marched, rode, traveled, crept, danced, raced, hiked, drove, hopped, flew, sailed,
            rushed, came"""),
        "sort": one_of(LOOKS),
        "place": one_of("beach 3, forest 4, market 3, farm 3, lake 3, park 4, harbor 2, castle 3"),
        "outing": one_of(
            {
                "On {month} {day}, a {weather} {time}, {hero} and {friend} {walked} to the "
                "{sort} {place}.": 4,
                "One {weather} {time}, {month} {day}, {hero} and {friend} {walked} to the "
                "{sort} {place}.": 3,
                "They {walked} to the {sort} {place} on {month} {day}, a {weather} {time}.": 2,
            }
        ),
        # The basket: what is in it betrays the problem to come.
        "problem": one_of("stuck 4, lost 4, cold 3, dark 3, sad 3, hurt 2, thirsty 2, torn 2"),
        "tool": by(
            "problem",
            stuck="rope 4, ladder 3, hook 2, net",
            lost="map 4, compass 3, atlas, telescope 2",
            cold="blanket 4, shawl 2, quilt 2, coat 2",
            dark="lantern 4, candle 3, lamp 2, torch",
            sad="flute 4, fiddle 2, drum 2, trumpet 2",
            hurt="bandage 4, cloth 2, towel 2, napkin 2",
            thirsty="flask 3, bottle 3, teapot 2, jug 2",
            torn="needle 4, thread 2, glue 2, tape 2",
        ),
        "packing": one_of("""{hero} packed 6, {hero} took 3, {hero} carried 2, {friend} carried 3,
            {friend} had 2, They packed 3"""),
        "taste": one_of(TASTES),
        "food": one_of(FOODS),
        "few": one_of(NUMBERS),
        "ripe": one_of(TASTES),
        "pears": one_of("""pears 2, apples 2, plums 2, cherries, figs, nuts, berries 2, peaches,
            grapes, carrots, olives, dates, melons, limes, lemons, peppers, onions, pumpkins, eggs,
            rolls, cookies, muffins, beans, potatoes"""),
        "uncle": one_of("""grandmother 2, father 2, mother 2, uncle 2, aunt 2, brother 2, sister 2,
            cousin, grandfather, teacher, neighbor, friend, nurse, cook, doctor"""),
        # The sights.
        "saw": one_of("""{hero} saw 4, {friend} saw 3, {hero} met 2, {friend} met, {hero} passed 3,
            {hero} found, {friend} found, They passed 3, They counted"""),
        "several": one_of(NUMBERS),
        "hue": one_of(COLORS),
        "finds": by(
            "place",
            beach="shells 3, pebbles 2, crabs 2, towels",
            forest="mushrooms 3, trees 2, leaves 2, berries",
            market="stalls 2, tents 2, melons 2, hats",
            farm="pumpkins 3, fences 2, pigs 2, eggs",
            lake="lilies 3, boats 2, reeds, swans 2",
            park="benches 2, kites 3, roses 2, balloons",
            harbor="ships 3, barrels 2, flags 2, gulls",
            castle="towers 3, shields 2, drums, horses 2",
        ),
        "doing": one_of("""dancing 2, singing 2, snoring, sneezing, yawning, hopping, grinning,
            sleeping, hiding, digging, humming, limping, laughing 2, running 2, jumping, thinking,
            reading, painting, juggling, shouting, skating, cooking, flying, crying, smiling,
            whistling"""),
        "passer": one_of(ANIMALS),
        "state": one_of(LOOKS),
        "tint": one_of(COLORS),
        "thing": one_of("""key, bell, wheel, boot, coin, spoon, flag, mirror, bucket, cup, shoe,
            chair, sign, letter, box, book, clock, cart, bench, door, barrel, basket, carpet,
            chest, crown, hat, jar, hammer, doll, ball, rocket, sled, sword, table, fan, gate,
            mask, pipe, plate, ring, rug, sock, tent, tub, wig, boat, kite, train, wagon, balloon,
            bowl, pot, drum, lamp, map, shell"""),
        # The meeting: what is wrong follows from the problem, where from the place.
        "spot": by(
            "place",
            beach="under the pier 2, behind a dune, on a rock",
            forest="under a pine 2, behind a stump, beside a log",
            market="behind a stall 2, under a table, on a crate",
            farm="behind the barn 2, under a cart, in the hay",
            lake="on the jetty 2, under a willow, in the reeds",
            park="under a bench 2, beside the swings, by the pond",
            harbor="on the dock 2, beside an anchor, under a sail",
            castle="behind a throne 2, beside the moat, on the stairs",
        ),
        "mood": one_of(LOOKS),
        "coat": one_of(COLORS),
        "stranger": one_of(ANIMALS),
        "oh": one_of("""Oh dear 3, Please 3, Help 3, Oh no 2, Alas 2, Hello 2, Excuse me, Oh, Wait,
            Friends, You there, Listen, Ah, Stop, Hey, Look, Ouch"""),
        "plaint": by(
            "problem",
            stuck="I am stuck 3, I cannot get out, I fell down a hole 2",
            lost="I am lost 3, I cannot find my home 2, I have lost my way",
            cold="I am so cold 3, I am freezing 2, I cannot get warm",
            dark="I am afraid of the dark 3, I cannot see 2, I am scared",
            sad="I am so sad 3, I have no friends 2, I cannot laugh",
            hurt="I have hurt my foot 3, I cut my knee 2, I cannot walk",
            thirsty="I am so thirsty 3, I need a drink 2, I have no water",
            torn="I have torn my coat 3, I ripped my sail, I cannot fix my tent 2",
        ),
        "sobbed": one_of("""sobbed 3, cried 3, whispered 2, said 3, sighed 2, wailed, called 2,
            moaned, sniffed, begged, groaned, mumbled, howled, roared, hissed, shouted, gasped,
            grunted, wept, yelled"""),
        "meeting": one_of(
            {
                '"{oh}! {plaint}," {sobbed} a {mood} {coat} {stranger} {spot}.': 4,
                'A {mood} {coat} {stranger} {spot} {sobbed}, "{oh}! {plaint}."': 3,
                'There, {spot}, a {mood} {coat} {stranger} {sobbed}, "{oh}! {plaint}."': 2,
            }
        ),
        # The rescue; the gift comes from the place.
        "how": one_of("""gently 2, quickly 2, carefully, bravely, slowly, quietly, at once 2, soon,
            kindly, happily, calmly, neatly, proudly, gladly, wisely, simply, boldly"""),
        "did": by(
            "problem",
            stuck="freed it with the {tool} 2, pulled it out with the {tool}",
            lost="led it home with the {tool} 2, showed it the {tool}",
            cold="gave it the {tool} 2, wrapped it in the {tool} 3",
            dark="lit the {tool} 3, held up the {tool} 2",
            sad="played the {tool} 3, cheered it up with the {tool} 2",
            hurt="tied on the {tool} 2, healed it with the {tool}",
            thirsty="filled the {tool} 2, passed it the {tool} 2",
            torn="mended it with the {tool} 3, fixed it with the {tool}",
        ),
        "gave": one_of("gave 4, handed 2, offered 2, brought, promised, tossed, left, sold"),
        "shine": one_of(LOOKS),
        "dye": one_of(COLORS),
        "gift": by(
            "place",
            beach="pearl 3, shell 2, crab",
            forest="acorn 3, leaf, mushroom 2",
            market="ribbon 2, hat 2, cup 2",
            farm="pumpkin 2, egg 3, cowbell",
            lake="trout 2, paddle 2, lily 2",
            park="balloon 3, rose, kite 2",
            harbor="anchor 2, oar 2, flag 2",
            castle="crown 3, ring 2, shield",
        ),
        "rescue": one_of(
            {
                "{hero} {how} {did}, and it {gave} {him} a {shine} {dye} {gift}.": 4,
                "So {hero} {how} {did}. It {gave} {him} a {shine} {dye} {gift}.": 2,
                "{She} {how} {did}, so it {gave} {him} a {shine} {dye} {gift}.": 1,
            }
        ),
        # The evening; the moral comes from the trait.
        "night": one_of("""That night they 2, At home they, Back in {town} they,
            At home {friend} and {hero} 2, That night {hero} and {friend} 4,
            Later {hero} and {friend} 2"""),
        "supper_taste": one_of(TASTES),
        "supper": one_of(FOODS),
        "dreamed": one_of(
            "dreamed of 4, sang about 2, talked about 2, told tales of, thought of, drew"
        ),
        "dreamy": one_of(LOOKS),
        "dream": one_of(WONDERS),
        "moral": by(
            "trait",
            kind={"Kindness comes back.": 3, "Kind hearts find friends.": 2, "Be kind.": 1},
            brave={"Fortune loves the brave.": 3, "Courage grows with use.": 2, "Be brave.": 1},
            clever={"Good ideas weigh nothing.": 2, "Wits beat strength.": 2, "Think first.": 1},
            patient={"Good things take time.": 3, "Patience opens doors.": 2, "Wait and see.": 1},
            cheerful={"A smile lights the road.": 3, "Laughter heals.": 2, "Sing on.": 1},
            curious={"Those who ask will learn.": 3, "Questions are doors.": 2, "Look closer.": 1},
            careful={"Look before you leap.": 3, "Slow steps go far.": 2, "Take care.": 1},
            generous={"What we share grows.": 3, "Giving makes us rich.": 2, "Share.": 1},
        ),
        "story": one_of(
            {
                "{opening} {companion} {outing} "
                "{packing} {taste} {food}, {few} {ripe} {pears} and {her} {uncle}'s {tool}. "
                "{saw} {several} {hue} {finds}, a {doing} {passer} and a {state} {tint} {thing}. "
                "{meeting} {rescue} "
                "{night} ate {supper_taste} {supper} and {dreamed} {dreamy} {dream}. "
                "{moral}\n\n": 1,
            }
        ),
    }
)


@dataclass(frozen=True)
class Story:
    """One story: its text with the blank line that ends it, the bits, and what was chosen."""

    text: str
    bits: float  # -log2 of the probability of the text
    facts: Mapping[str, str]  # choice -> what it drew; facts["hero"] == "Lily"


def tell_story(index: int, *, seed: int, grammar: Grammar = STORIES) -> Story:
    """Story number `index` of the corpus `seed`: the same on every platform and Python, for ever.

    The numbers behind the choices are the output of SHAKE-128 (FIPS 202) on both integers. Which
    choice wrote which characters: `grammar.spans(story.facts)`.
    """
    size = len(grammar.choices)
    stream = hashlib.shake_128(f"{seed} {index}".encode()).digest(8 * size)
    facts, bits = grammar.draw(struct.unpack(f"<{size}Q", stream))
    return Story(facts[next(reversed(facts))], bits, facts)


def write_stories(num_bytes: int, *, seed: int, grammar: Grammar = STORIES) -> Iterator[Story]:
    """Stories 0, 1, 2, ... until their texts hold `num_bytes` bytes of UTF-8 or more.

    Raises ConfigError if `num_bytes` is below 1.
    """
    check(num_bytes >= 1, f"num_bytes is {num_bytes}; ask for at least 1 byte of stories")

    def stories() -> Iterator[Story]:
        missing = num_bytes
        for index in count():
            story = tell_story(index, seed=seed, grammar=grammar)
            yield story
            missing -= len(story.text.encode())
            if missing <= 0:
                return

    return stories()


def story_entropy(grammar: Grammar = STORIES) -> float:
    """Expected bits per story, from the grammar alone: no story is drawn."""
    return grammar.entropy()
