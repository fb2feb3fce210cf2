"""The bundled corpus: short stories from a grammar, so the loss no model can beat is known.

The story remembers: the name and its pronouns, the pet, the home, the thing in the basket that later
solves the problem it was made for, the place that decides the gift, the trait that decides the
moral. Change a word or a weight and the corpus and its entropy follow.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from jaxgpt.data.grammar import Grammar, by, one_of
from jaxgpt.errors import ConfigError

# Every look, color, doing and mood starts with a consonant, so that "a" is right before each.
LOOKS = """little 4, small 3, tiny 3, big 2, huge 2, round 2, plain, pretty 2, lovely 2, strange 2,
    beautiful 2, charming, curious 2, mysterious, peculiar, famous 2, forgotten, secret, lonely 2,
    quiet 2, silent, noisy 2, cheerful 2, merry, gloomy, dreamy, sleepy 2, friendly 2, funny 2,
    silly, proud, humble, noble, royal, magic 2, dirty, dusty, muddy, shiny, bright, pale, dark,
    striped, spotted, precious, rare, simple, special, perfect, wonderful 2, fine, splendid,
    remarkable, delightful, graceful, crooked, wild, modest, tidy, messy, fancy, gentle, jolly,
    comical, new, nameless, dainty, sturdy, smooth, fluffy, fuzzy, gleaming, glowing, handsome,
    lazy, lucky, mighty, nervous, playful, pleasant, tall, wise, young, shy, sweet, wobbly, crazy,
    normal, regal, tough"""
COLORS = """red 3, blue 3, green 2, yellow 2, purple, pink, white 2, brown, golden, silver, gray,
    black 2, scarlet, violet, crimson, turquoise, rosy, snowy"""
FOODS = """bread 2, cheese 2, soup 2, rice, noodles, pancakes, pie 2, potatoes, porridge, biscuits,
    sandwiches, cake 2, muffins, eggs, dumplings, toast, pudding, beans, waffles, stew, turnips,
    sausages, pasta, cabbage, omelets, pizza, popcorn, corn, tomatoes, salad, spinach, fudge"""
TASTES = """warm 3, fresh 2, cold 2, tasty 2, plain, spicy, buttery, salty, homemade, leftover,
    rich, sweet, soft, sticky, golden, peppery, creamy, delicious, burnt, smoky, sour, mild"""
NUMBERS = """two 2, three 2, four 2, five 2, six, seven 2, eight, nine, ten, eleven, twelve,
    twenty, thirty, forty, fifty, ninety"""

STORIES = Grammar(
    {
        # Who: the name says whether it is a girl or a boy, and that says the pronouns.
        "child": one_of("girl, boy"),
        "hero": by(
            "child",
            girl="""Lily 3, Anna 3, Mia 3, Ruth, Ella 2, Nora 2, Rosa, Clara, Ida, Maya, Leila,
                Hana, Greta, Zoe, Amina, Priya, Sofia, Lucy, Emma, Grace, Freya, Ines, Jane, Kate,
                Mary, Olga, Polly, Sara, Tess, Vera, Yuki, Elsa, Fatima, Alice, Bella, Carmen,
                Nina, Wanda, Luna, Molly""",
            boy="""Tom 3, Ben 3, Leo 3, Sam 2, Max 2, Jack 2, Otto, Noah, Finn, Omar, Hugo, Ivan,
                Luca, Kofi, Emil, Ravi, Adam, Theo, Paul, Yusuf, Diego, Mateo, Kenji, Jonas, Oscar,
                Peter, Simon, Toby, Felix, Henry, Anton, Boris, Carlo, David, Erik, Gus, Nico,
                Viktor, Louis, Walter""",
        ),
        "she": by("child", girl="she", boy="he"),
        "She": by("child", girl="She", boy="He"),
        "her": by("child", girl="her", boy="his"),
        "Her": by("child", girl="Her", boy="His"),
        "him": by("child", girl="her", boy="him"),
        "daughter": by("child", girl="daughter 4, niece 2, sister", boy="son 4, nephew 2, brother"),
        "trait": one_of("""kind 4, brave 4, clever 3, curious 3, patient 2, cheerful 2, careful 2,
            generous 2"""),
        "baker": one_of("""baker 2, miller 2, farmer 2, tailor, fisherman, sailor 2, gardener,
            teacher, doctor 2, carpenter, weaver, potter, shepherd, cook, clockmaker, painter,
            postman, blacksmith, shoemaker, beekeeper, librarian, woodcutter, musician, ferryman,
            goldsmith, king 2, pirate 2, wizard 2, juggler, mayor, barber, butcher, dentist,
            captain, milkman, magician, hunter, lifeguard, plumber, pilot, lawyer, dancer, singer,
            duke, knight, merchant, printer, tinker"""),
        "fern": one_of("""Fern, Bramble, Apple, Oak, Willow, Honey, Maple, Rose, Stone, Silver,
            Winter, Summer, Thistle, Robin, Clover, Copper, Moon, Star, River, Meadow, Pebble,
            Amber, Hazel, Swan, Fox, Otter, Raven, Butter, Cherry, Ginger, Cloud, Dove, Eagle,
            Frost, Goose, Ivy, Juniper, Lark, Mint, North, South, Pine, Plum, Sugar, Thunder,
            Water, Wolf, Nettle"""),
        "wick": one_of("""ton 2, wick 2, field 2, ford 2, dale 2, bury, ham, port, brook, mere,
            stead, wood, well, bridge, haven, cliff, hill, gate, hurst, land, moor, side"""),
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
        "pet": one_of("""dog 3, cat 3, rabbit 2, pony 2, goat 2, duck 2, mouse 2, parrot 2, hen,
            donkey, goose, pig 2, lamb, pigeon, kitten, puppy, ferret, turtle, crow, hamster,
            rooster, canary, calf, pug, poodle, lizard"""),
        "pip": one_of("""Pip, Mop, Bim, Tum, Wig, Nib, Fuz, Dot, Pom, Gog, Tip, Wob, Zig, Rum, Tuf,
            Bub, Kip, Lol, Jum, Hob, Snip, Flip, Chip, Taf"""),
        "kin": one_of("kin, sy, bo, per, ling, by, py, ster, let, pet, ina, o, us, ix, well, dy"),
        "friend": one_of("{pip}{kin}"),
        "loved": one_of("""loved 4, liked 3, hated 2, feared 2, adored 2, collected, watched,
            wanted, dreamed of, disliked, enjoyed 2, painted, chased, sold, studied"""),
        "love": one_of("""cheese, music, thunder, baths, apples, snow, cake, puddles, kites,
            stories, honey, carrots, soup, naps, mirrors, bells, butterflies, bees, mud, dances,
            games, parades, hats, trains, boats, ladders, umbrellas, secrets, jokes, jam, stars,
            butter, balloons, fireworks, songs, socks, spoons, clouds, riddles, buttons, rainbows,
            tea, crumbs, drums, feathers, maps, moths, shoes, paint, ghosts"""),
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
            marched, cycled, rode, traveled, crept, danced, raced, tiptoed, hiked, drove, hopped,
            trotted, flew, sailed, rushed"""),
        "sort": one_of(LOOKS),
        "place": one_of("""beach 4, forest 5, market 3, farm 3, lake 3, park 4, harbor 2, meadow 3,
            mountain 2, castle 3"""),
        "outing": one_of(
            {
                "On {month} {day}, a {weather} {time}, they {walked} to the {sort} {place}.": 4,
                "One {weather} {time}, {month} {day}, they {walked} to the {sort} {place}.": 3,
                "They {walked} to the {sort} {place} on {month} {day}, a {weather} {time}.": 2,
            }
        ),
        # The basket: what is in it betrays the problem to come.
        "problem": one_of("stuck 4, lost 4, cold 3, dark 3, sad 3, hurt 2, thirsty 2, torn 2"),
        "tool": by(
            "problem",
            stuck="rope 4, ladder 2, walking stick 2, fishing net 1",
            lost="map 4, compass 3, spyglass 2, guidebook 1",
            cold="blanket 4, shawl 2, quilt 2, coat 2",
            dark="lantern 4, candle 3, lamp 2, flashlight 1",
            sad="flute 3, fiddle 2, drum 2, banjo 1, trumpet 2",
            hurt="bandage 3, handkerchief 2, scarf 2, towel 1",
            thirsty="flask 3, bottle 2, teapot 2, jug 2",
            torn="needle 3, sewing kit 2, pot of glue 2, spool of thread 1",
        ),
        "packing": one_of("""They packed 4, {She} packed 3, {hero} packed, They had 2, {She} had 2,
            They carried 2, {friend} carried 2, They took 3, {She} took, {friend} had"""),
        "taste": one_of(TASTES),
        "food": one_of(FOODS),
        "few": one_of(NUMBERS),
        "ripe": one_of("""ripe 2, juicy 2, sour 2, red 2, green 2, tiny, dried, fresh, wild, big,
            sticky, sugared, yellow, soft, frozen, roasted, shiny, bitter, spotty, hard"""),
        "pears": one_of("""pears 2, apples 2, plums 2, cherries, figs, nuts, raisins, berries 2,
            peaches, grapes, carrots, radishes, olives, dates, oranges, melons, bananas, limes,
            lemons, cucumbers, chestnuts, apricots, peppers, mangos, almonds, onions"""),
        "uncle": one_of("""grandmother 2, father 2, mother 2, uncle 2, aunt 2, brother 2, sister 2,
            cousin, grandfather, teacher, neighbor, godmother, nanny, friend, nurse"""),
        # The sights.
        "saw": one_of("""They passed 4, They saw 4, They met 2, They counted, They found 2,
            They drew, They waved at, They ran past, {hero} saw 2, {friend} saw 2, {hero} met,
            {friend} met"""),
        "several": one_of(NUMBERS),
        "hue": one_of(COLORS),
        "finds": by(
            "place",
            beach="shells 3, pebbles 2, crabs 2, starfish, towels, surfboards, seals",
            forest="mushrooms 3, ferns, toadstools 2, leaves 2, berries, squirrels, snakes",
            market="stalls, tents, melons 2, ribbons, carpets 2, baskets, pots",
            farm="haystacks 2, pumpkins 2, tractors, fences, calves, cabbages, sheep",
            lake="lilies 2, boats 2, dragonflies, reeds, canoes, tadpoles, trout",
            park="benches 2, kites 2, swings, tulips, balloons, bicycles, skaters",
            harbor="ships 3, barrels, anchors, flags, lanterns, gulls 2, sails",
            meadow="poppies 2, daisies 2, butterflies 2, beehives, crickets, grasshoppers",
            mountain="rocks 3, pines, caves, icicles, eagles 2, cabins, cliffs",
            castle="towers 2, banners 2, shields, roses, knights 2, carriages, thrones",
        ),
        "doing": one_of("""dancing, singing, snoring, sneezing, yawning, hopping, whistling,
            grinning, blinking, sleeping, hiding, digging, humming, limping, laughing, running,
            jumping, thinking, reading, knitting, juggling, marching, shouting, skating, bathing,
            painting, waltzing, giggling, muttering, hurrying, complaining, trembling, cooking,
            drumming"""),
        "passer": one_of("""frog 2, bee, beetle, heron, robin, hare, snail, lizard, bat, toad,
            moth, sparrow, stork, hawk, peacock, cricket, caterpillar, ladybug, seal, monkey 2,
            camel, elephant 2, giraffe, kangaroo, lobster, octopus, pelican, spider, wasp, worm,
            zebra, walrus, tiger, lion 2, panda, hippo, gorilla, cuckoo, ostrich, yak, eel, crab,
            ant"""),
        "state": one_of(LOOKS),
        "tint": one_of(COLORS),
        "thing": one_of("""key, bell, wheel, boot, kettle, coin, spoon, flag, mirror, bucket, cup,
            glove, shoe, chair, statue, sign, scarecrow, letter, box, book, clock, cart, cannon,
            bench, door, barrel, basket, bicycle, pillow, carpet, chest, crown, hat, helmet, jar,
            hammer, doll, ball, puppet, rocket, saddle, sled, suitcase, sword, table, trunk,
            umbrella, vase, violin, whistle, fan, gate, mask, pipe, plate, ring, rug, sock, tent,
            tub, wig"""),
        # The meeting.
        "spot": by(
            "place",
            beach="under the pier, behind a dune, beside a rowboat, on a rock",
            forest="under a pine, behind a stump, beside a log, in a thicket",
            market="behind a stall, under a table, beside the fountain, on a crate",
            farm="behind the barn, under a cart, beside the pigpen, in the hay",
            lake="by the boathouse, on the jetty, under a willow, in the reeds",
            park="under a bench, beside the swings, behind the statue, by the pond",
            harbor="behind a crate, beside an anchor, on the dock, under a sail",
            meadow="in the grass, beside a brook, under a hedge, on a molehill",
            mountain="on a ledge, behind a boulder, beside a waterfall, in a cave",
            castle="behind a throne, on the drawbridge, beside the moat, in the dungeon",
        ),
        "mood": one_of("""weary, tearful, worried, gloomy, lonely, tired, miserable, pale, nervous,
            desperate, sad 2, sorry, frightened, timid, weak, heartbroken, young 2, confused,
            dirty, grumpy, pitiful, shy, bashful, hopeless, ragged, small 2, big, thin, plump,
            polite, noble, muddy"""),
        "coat": one_of(COLORS),
        "stranger": one_of("""hedgehog, squirrel, fox 2, bear 2, badger, mole, deer, otter,
            raccoon, beaver, wolf 2, weasel, owl, swan, dragon 3, goblin, unicorn, troll, giant,
            ghost, robot, penguin, dwarf, snake, crocodile, witch, fairy, monster, whale, moose,
            ogre, pixie"""),
        "oh": one_of("""Oh dear 3, Please 3, Help 3, Oh no 2, Alas 2, Hello 2, Woe is me,
            Excuse me, Oh, Wait, Goodness, Friends, You there, Have pity, Listen, Ah, Stop, Hey,
            Look, Ouch"""),
        "plaint": by(
            "problem",
            stuck="I am stuck 2, I fell down a hole 2, My foot is trapped, I cannot get out",
            lost="I have lost my way 3, I cannot find my home 2, I am lost 3",
            cold="I am freezing 2, I am so cold 2, I cannot stop shivering, My toes are like ice",
            dark="I am afraid of the dark 2, The shadows scare me, I cannot see a thing 2",
            sad="I am so sad 2, Nobody plays with me 2, I have no friends 2, I never laugh",
            hurt="I have hurt my foot 2, I cut my knee 2, A thorn pricked me, I bumped my head",
            thirsty="I am so thirsty 2, My throat is dry, I need a drink 2, The well is empty",
            torn="My kite is torn 2, My tent has a hole, I ripped my coat 2, My sail is in rags",
        ),
        "sobbed": one_of("""sobbed 3, cried 3, whispered 2, said 3, sighed 2, wailed, called 2,
            moaned, sniffed, begged, groaned, mumbled, stammered, whimpered, croaked, howled,
            roared, hissed, shouted, gasped, grunted, wept, yelled"""),
        "meeting": one_of(
            {
                '"{oh}! {plaint}," {sobbed} a {mood} {coat} {stranger} {spot}.': 4,
                'A {mood} {coat} {stranger} {spot} {sobbed}, "{oh}! {plaint}."': 3,
                'There, {spot}, a {mood} {coat} {stranger} {sobbed}, "{oh}! {plaint}."': 2,
            }
        ),
        # The rescue; the gift comes from the place.
        "how": one_of("""gently 2, quickly 2, carefully, bravely, slowly, quietly, at once 2, soon,
            kindly, cleverly, happily, patiently, calmly, swiftly, neatly, proudly, gladly, wisely,
            politely, cheerfully, simply, boldly, promptly"""),
        "did": by(
            "problem",
            stuck="""pulled it out with the {tool} 2, freed it with the {tool} 2,
                reached down with the {tool}""",
            lost="""found the road with the {tool} 2, led it home by the {tool} 2,
                showed it the {tool}""",
            cold="wrapped it in the {tool} 3, gave it the {tool} 2, tucked it under the {tool}",
            dark="lit the {tool} 3, held up the {tool} 2, chased the night off with the {tool}",
            sad="""played the {tool} 3, cheered it up with the {tool} 2,
                taught it to play the {tool}""",
            hurt="""wrapped the {tool} around it 2, tied on the {tool} 2,
                eased the pain with the {tool}""",
            thirsty="filled the {tool} 2, let it drink from the {tool} 3, passed it the {tool}",
            torn="mended it with the {tool} 3, fetched the {tool} 2, fixed it with the {tool}",
        ),
        "gave": one_of("gave 4, handed 2, offered 2, brought, promised, tossed, left, granted"),
        "shine": one_of(LOOKS),
        "dye": one_of(COLORS),
        "gift": by(
            "place",
            beach="pearl 3, seashell 2, sea horse, bottle of sand, fishbone, sponge",
            forest="acorn 2, pine cone 2, jar of honey, walnut, twig, mushroom",
            market="ribbon 2, copper pot, candy cane 2, carpet, necktie, teacup",
            farm="pumpkin 2, egg 2, cowbell, horseshoe, wool cap, turnip",
            lake="trout, paddle, reed pipe, water lily 2, toy boat, fishhook",
            park="balloon 2, marble 2, yo-yo, frisbee, kite, skateboard",
            harbor="ship in a bottle 2, sailor hat, brass bell, parrot feather, anchor, oar",
            meadow="daisy chain 2, honeycomb, clover 2, flower crown, bouquet, butterfly",
            mountain="crystal 3, gemstone, eagle feather, snow globe, goat horn, pebble",
            castle="crown 2, goblet, ring 2, tapestry, scepter, shield",
        ),
        "rescue": one_of(
            {
                "{hero} {how} {did}, and it {gave} {him} a {shine} {dye} {gift}.": 4,
                "So {she} {how} {did}. It {gave} {him} a {shine} {dye} {gift}.": 2,
                "{She} {how} {did}, so it {gave} {him} a {shine} {dye} {gift}.": 2,
            }
        ),
        # The evening; the moral comes from the trait.
        "night": one_of("""That night they 4, At home they 2, Back in {town} they 2,
            By the fire they, At home {friend} and {hero} 2, That night {hero} and {friend} 2,
            Later they, At sunset they"""),
        "supper_taste": one_of(TASTES),
        "supper": one_of(FOODS),
        "dreamed": one_of(
            "dreamed of 4, sang about 2, talked about 2, told tales of, thought of, drew"
        ),
        "dreamy": one_of(LOOKS),
        "dream": one_of("""dragons, trumpets, castles, kings, pirates, islands, stars, whales,
            mermaids, ghosts, horses, clouds, ships, princes, fish, wolves, giants, swans, robots,
            volcanoes, rivers, cakes, clowns, elephants, circuses, planets, tigers, trains,
            wizards, jungles, birds, caves, treasures, lakes, monkeys, oceans, queens, rockets,
            bears, witches, towers, spies, snakes, deserts, feasts, moons, ponies, knights"""),
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

    The numbers behind the choices are the output of SHAKE-128 (FIPS 202) on both integers.
    """
    size = len(grammar.choices)
    stream = hashlib.shake_128(f"{seed} {index}".encode()).digest(8 * size)
    facts, bits = grammar.draw(struct.unpack(f"<{size}Q", stream))
    return Story(facts[next(reversed(facts))], bits, facts)


def write_stories(num_bytes: int, *, seed: int, grammar: Grammar = STORIES) -> Iterator[Story]:
    """Stories 0, 1, 2, ... until their texts hold `num_bytes` bytes of UTF-8 or more.

    Raises:
        ConfigError: `num_bytes` is below 1.
    """
    if num_bytes < 1:
        raise ConfigError(f"num_bytes is {num_bytes}; ask for at least 1 byte of stories")

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


def bits_per_byte(stories: Iterable[Story]) -> float:
    """Bits over bytes of these very stories: the loss below which no model of the language gets.

    Raises:
        ConfigError: there are no stories.
    """
    bits, num_bytes = 0.0, 0
    for story in stories:
        bits += story.bits
        num_bytes += len(story.text.encode())
    if not num_bytes:
        raise ConfigError("bits_per_byte got no stories; give it at least one")
    return bits / num_bytes
