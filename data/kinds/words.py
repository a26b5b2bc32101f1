"""Grammar and meaning of single words: forms of nouns, verbs and adjectives, small phrases with
them, categories, opposites, translations."""
import random

from data.kinds import task
from data.lexicon import ADJECTIVES, CATEGORY, NOUNS, VERBS, WORDS

MORE_NOUNS = """child man woman wife thief hero baby city country king queen prince princess uncle
    aunt nephew niece brother sister father mother son daughter friend enemy neighbor guest day
    night hour week month year winter summer morning evening army story party lady echo torch
    dish wall floor ceiling garden street bridge road village ox calf loaf life cliff ostrich
    octopus igloo uniform university engine inch witch eyelash olive oven cactus unicorn album
    idea accident ticket puzzle ghost giant dwarf pirate wizard dragon planet diary roof fence
    tray toy boy girl student victory artist author insect apartment office elevator""".split()
MORE_VERBS = """go do have come get say accept achieve add arrange avoid become behave blink
    celebrate change chat check compare compete confuse connect consider continue cross crawl
    decide decorate defend delay deliver deny depend describe deserve destroy develop die
    disappear discover discuss divide doubt drag examine expect explore fasten fetch flow fry
    gather glow grab greet grin grind guess guide happen hang heal hop hug hunt hurry hurt imagine
    improve include increase inform insist introduce invent invite jog join joke juggle kiss kneel
    knit knock laugh launch like load manage march marry measure mention nod notice obey observe
    occur pack pass pat pause persuade point polish prefer pretend produce provide punish race
    receive reduce regret relax remain remove replace rescue respect rush sail scream scrub search
    select serve shiver shrink shrug sigh sip skate skip slide slip sneeze snore solve spin spit
    split squeeze start step stretch succeed suggest supply support surprise swallow tap trade
    translate trap trust unite unlock wag wander whistle wrestle yawn zip""".split()
MORE_ADJECTIVES = """amazing ambitious attractive awful awkward bald blurry brief brilliant broad
    bumpy cautious charming cheerful chilly clear cloudy clumsy coarse colorful comfortable
    confident cozy crazy creative creepy crowded crunchy curious curly cute damp delicate delicious
    dense dull dusty eager elegant fair faithful famous fancy fat filthy firm flat fluffy foggy
    foolish fragile frequent friendly funny furious fuzzy gloomy graceful grand grateful greasy
    great grim hairy handsome harmful harmless harsh helpful helpless hungry icy important
    intelligent jealous jolly juicy keen large lively lonely lovely loyal lumpy mad merry
    messy modest muddy mysterious nasty naughty neat nervous nice noble odd painful painless
    peaceful plain pleasant popular powerful pretty pure quick rapid reliable ripe risky
    rocky romantic salty sandy scary selfish sensitive serious severe shaky shiny silly
    sincere skinny sleepy slim slippery smart smelly soggy sore spicy stable stale sticky stiff
    stormy strange strict stubborn successful sunny suspicious tasty tender terrible thirsty
    thoughtful tidy tired tough tragic vague valuable vast violent wealthy weird wicked windy wise
    wonderful worried worthless""".split()

# The words of the lexicon first, in the order in which the other kinds see them.
POOL = list(dict.fromkeys(WORDS + MORE_NOUNS + MORE_VERBS + MORE_ADJECTIVES))
NOUN_POOL = [w for w in POOL if w in set(NOUNS + MORE_NOUNS)]
VERB_POOL = [w for w in POOL if w in set(VERBS + MORE_VERBS)]
ADJECTIVE_POOL = [w for w in POOL if w in set(ADJECTIVES + MORE_ADJECTIVES)]


def table(text: str) -> dict[str, list[str]]:
    """`burn burned/burnt` → {"burn": ["burned", "burnt"]}, entries separated by commas."""
    pairs = [entry.split() for entry in text.split(",")]
    return {word: forms.split("/") for word, forms in pairs}


def ends_in_consonant_y(word: str) -> bool:
    return word.endswith("y") and word[-2] not in "aeiou"


def add_s(word: str) -> str:
    if ends_in_consonant_y(word):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


# ------------------------------------------------------------------------------------------ nouns

MASS_NOUNS = set("""spinach broccoli celery garlic asparagus rain snow wind grass sand sun water
    milk coffee tea juice wine beer lemonade cocoa whiskey bread cheese butter rice soup pasta
    sugar salt honey chocolate yogurt ham soap""".split())
PLURAL_ONLY = set("jeans trousers scissors pliers".split())
COLORS = {noun for noun in NOUNS if CATEGORY[noun] == "color" and noun != "orange"}
UNCOUNTABLE = MASS_NOUNS | PLURAL_ONLY | COLORS
PLURALS = table("""mouse mice, goose geese, sheep sheep, deer deer, salmon salmon, foot feet,
    tooth teeth, wolf wolves, knife knives, shelf shelves, leaf leaves, scarf scarves/scarfs,
    mango mangoes/mangos, potato potatoes, tomato tomatoes, volcano volcanoes/volcanos,
    stomach stomachs, child children, man men, woman women, wife wives, thief thieves, hero heroes,
    echo echoes, ox oxen, calf calves, loaf loaves, life lives, octopus octopuses/octopi,
    cactus cacti/cactuses, dwarf dwarfs/dwarves""")


def plurals(noun: str) -> list[str]:
    """The accepted plurals; empty for milk, scissors, red."""
    return [] if noun in UNCOUNTABLE else PLURALS.get(noun, [add_s(noun)])


def with_article(noun: str) -> str | None:
    if noun in UNCOUNTABLE:
        return None
    vowel = noun == "hour" or noun[0] in "aeiou" and not noun.startswith("uni")
    return f"{'an' if vowel else 'a'} {noun}"


@task(NOUN_POOL)
def plural(noun):
    return plurals(noun) or None


@task(NOUN_POOL)
def article(noun):
    return with_article(noun)


@task(NOUN_POOL)
def the_plural(noun):
    return [f"the {p}" for p in plurals(noun)] or None


@task(NOUN_POOL)
def two(noun):
    return [f"two {p}" for p in plurals(noun)] or None


@task(NOUN_POOL)
def my(noun):
    return None if noun in COLORS else f"my {noun}"


@task(NOUN_POOL)
def is_it(noun):
    return f"Is it {with_article(noun)}?" if with_article(noun) else None


@task(NOUN_POOL)
def i_like(noun):
    return [f"I like {p}." for p in plurals(noun)] or None


# Words that fit a second category as well; it is accepted too.
SECOND_CATEGORY = {word: name for name, words in {
    "fruit": "tomato pumpkin cucumber eggplant",
    "color": "orange",
    "body part": "organ",
    "food": "salmon",
    "nature": "violet water",
    "furniture": "lamp mirror",
    "tool": "fork spoon bucket rope",
    "object": """hammer saw screwdriver drill wrench axe shovel rake chisel pliers ladder scissors
        needle knife brush broom spade""",
}.items() for word in words.split()}


def categories(noun: str) -> list[str]:
    """The accepted categories; empty for the nouns that are not in the lexicon."""
    names = [c for c in (CATEGORY.get(noun), SECOND_CATEGORY.get(noun)) if c]
    return names + ["colour"] * ("color" in names)


@task(NOUN_POOL)
def category(noun):
    return categories(noun) or None


@task(NOUN_POOL)
def category_upper(noun):
    return [name.upper() for name in categories(noun)] or None


# ----------------------------------------------------------------------------------- translations

TRANSLATIONS = """
dog | chien | perro | der Hund | cane | cachorro, cão
cat | chat | gato | die Katze | gatto | gato
horse | cheval | caballo | das Pferd | cavallo | cavalo
cow | vache | vaca | die Kuh | mucca, vacca | vaca
pig | cochon, porc | cerdo, puerco, cochino | das Schwein | maiale, porco | porco
sheep | mouton | oveja | das Schaf | pecora | ovelha
goat | chèvre | cabra | die Ziege | capra | cabra
rabbit | lapin | conejo | das Kaninchen | coniglio | coelho
mouse | souris | ratón | die Maus | topo | rato, camundongo
rat | rat | rata | die Ratte | ratto | rato, ratazana
lion | lion | león | der Löwe | leone | leão
tiger | tigre | tigre | der Tiger | tigre | tigre
bear | ours | oso | der Bär | orso | urso
wolf | loup | lobo | der Wolf | lupo | lobo
fox | renard | zorro | der Fuchs | volpe | raposa
deer | cerf | ciervo, venado | der Hirsch, das Reh | cervo | veado, cervo
monkey | singe | mono | der Affe | scimmia | macaco
elephant | éléphant | elefante | der Elefant | elefante | elefante
giraffe | girafe | jirafa | die Giraffe | giraffa | girafa
zebra | zèbre | cebra | das Zebra | zebra | zebra
camel | chameau | camello | das Kamel | cammello | camelo
kangaroo | kangourou | canguro | das Känguru | canguro | canguru
donkey | âne | burro, asno | der Esel | asino | burro, jumento
squirrel | écureuil | ardilla | das Eichhörnchen | scoiattolo | esquilo
hedgehog | hérisson | erizo | der Igel | riccio | ouriço
otter | loutre | nutria | der Otter | lontra | lontra
beaver | castor | castor | der Biber | castoro | castor
eagle | aigle | águila | der Adler | aquila | águia
owl | hibou, chouette | búho, lechuza | die Eule | gufo, civetta | coruja
crow | corbeau, corneille | cuervo | die Krähe | corvo, cornacchia | corvo
swan | cygne | cisne | der Schwan | cigno | cisne
goose | oie | ganso, oca | die Gans | oca | ganso
duck | canard | pato | die Ente | anatra | pato
penguin | manchot, pingouin | pingüino | der Pinguin | pinguino | pinguim
parrot | perroquet | loro, papagayo | der Papagei | pappagallo | papagaio
sparrow | moineau | gorrión | der Spatz, der Sperling | passero | pardal
shark | requin | tiburón | der Hai | squalo | tubarão
whale | baleine | ballena | der Wal | balena | baleia
dolphin | dauphin | delfín | der Delfin, der Delphin | delfino | golfinho
salmon | saumon | salmón | der Lachs | salmone | salmão
frog | grenouille | rana | der Frosch | rana | rã, sapo
snake | serpent | serpiente, culebra | die Schlange | serpente | cobra, serpente
lizard | lézard | lagarto, lagartija | die Eidechse | lucertola | lagarto
turtle | tortue | tortuga | die Schildkröte | tartaruga | tartaruga
spider | araignée | araña | die Spinne | ragno | aranha
ant | fourmi | hormiga | die Ameise | formica | formiga
bee | abeille | abeja | die Biene | ape | abelha
butterfly | papillon | mariposa | der Schmetterling | farfalla | borboleta
apple | pomme | manzana | der Apfel | mela | maçã
banana | banane | plátano, banana | die Banane | banana | banana
pear | poire | pera | die Birne | pera | pera
peach | pêche | melocotón, durazno | der Pfirsich | pesca | pêssego
plum | prune | ciruela | die Pflaume | prugna, susina | ameixa
cherry | cerise | cereza | die Kirsche | ciliegia | cereja
grape | raisin | uva | die Traube, die Weintraube | uva | uva
lemon | citron | limón | die Zitrone | limone | limão
pineapple | ananas | piña, ananá | die Ananas | ananas | abacaxi, ananás
strawberry | fraise | fresa, frutilla | die Erdbeere | fragola | morango
raspberry | framboise | frambuesa | die Himbeere | lampone | framboesa
blueberry | myrtille, bleuet | arándano | die Heidelbeere, die Blaubeere | mirtillo | mirtilo
apricot | abricot | albaricoque, damasco | die Aprikose, die Marille | albicocca | damasco, alperce
fig | figue | higo | die Feige | fico | figo
coconut | noix de coco, coco | coco | die Kokosnuss | cocco, noce di cocco | coco
grapefruit | pamplemousse | pomelo, toronja | die Grapefruit, die Pampelmuse | pompelmo | toranja
carrot | carotte | zanahoria | die Karotte, die Möhre | carota | cenoura
potato | pomme de terre, patate | patata, papa | die Kartoffel | patata | batata
onion | oignon | cebolla | die Zwiebel | cipolla | cebola
tomato | tomate | tomate | die Tomate | pomodoro | tomate
cabbage | chou | col, repollo | der Kohl | cavolo | repolho, couve
spinach | épinard, épinards | espinaca, espinacas | der Spinat | spinaci, spinacio | espinafre
lettuce | laitue, salade | lechuga | der Kopfsalat, der Salat | lattuga | alface
cucumber | concombre | pepino | die Gurke | cetriolo | pepino
pumpkin | citrouille, potiron | calabaza | der Kürbis | zucca | abóbora
garlic | ail | ajo | der Knoblauch | aglio | alho
radish | radis | rábano | das Radieschen, der Rettich | ravanello | rabanete
turnip | navet | nabo | die Rübe | rapa | nabo
eggplant | aubergine | berenjena | die Aubergine | melanzana | berinjela, beringela
cauliflower | chou-fleur | coliflor | der Blumenkohl | cavolfiore | couve-flor
asparagus | asperge, asperges | espárrago | der Spargel | asparago | aspargo, espargo
red | rouge | rojo | das Rot | rosso | vermelho
blue | bleu | azul | das Blau | blu | azul
green | vert | verde | das Grün | verde | verde
yellow | jaune | amarillo | das Gelb | giallo | amarelo
black | noir | negro | das Schwarz | nero | preto, negro
white | blanc | blanco | das Weiß | bianco | branco
head | tête | cabeza | der Kopf | testa | cabeça
hand | main | mano | die Hand | mano | mão
foot | pied | pie | der Fuß | piede | pé
arm | bras | brazo | der Arm | braccio | braço
leg | jambe | pierna | das Bein | gamba | perna
nose | nez | nariz | die Nase | naso | nariz
ear | oreille | oreja, oído | das Ohr | orecchio | orelha, ouvido
eye | œil, oeil | ojo | das Auge | occhio | olho
mouth | bouche | boca | der Mund | bocca | boca
knee | genou | rodilla | das Knie | ginocchio | joelho
elbow | coude | codo | der Ellbogen, der Ellenbogen | gomito | cotovelo
shoulder | épaule | hombro | die Schulter | spalla | ombro
finger | doigt | dedo | der Finger | dito | dedo
neck | cou | cuello | der Hals, der Nacken | collo | pescoço
chin | menton | barbilla, mentón | das Kinn | mento | queixo
tongue | langue | lengua | die Zunge | lingua | língua
tooth | dent | diente | der Zahn | dente | dente
stomach | estomac, ventre | estómago | der Magen, der Bauch | stomaco | estômago
heart | cœur, coeur | corazón | das Herz | cuore | coração
lung | poumon | pulmón | die Lunge | polmone | pulmão
ankle | cheville | tobillo | der Knöchel | caviglia | tornozelo
wrist | poignet | muñeca | das Handgelenk | polso | pulso
thumb | pouce | pulgar | der Daumen | pollice | polegar
forehead | front | frente | die Stirn | fronte | testa
shirt | chemise | camisa | das Hemd | camicia | camisa
hat | chapeau | sombrero | der Hut | cappello | chapéu
coat | manteau | abrigo | der Mantel | cappotto | casaco, sobretudo
sock | chaussette | calcetín, media | die Socke | calzino, calza | meia, peúga
shoe | chaussure | zapato | der Schuh | scarpa | sapato
glove | gant | guante | der Handschuh | guanto | luva
scarf | écharpe, foulard | bufanda | der Schal | sciarpa | cachecol, lenço
belt | ceinture | cinturón | der Gürtel | cintura | cinto
skirt | jupe | falda | der Rock | gonna | saia
dress | robe | vestido | das Kleid | vestito, abito | vestido
jacket | veste, blouson | chaqueta | die Jacke | giacca | jaqueta, casaco
boot | botte | bota | der Stiefel | stivale | bota
apron | tablier | delantal | die Schürze | grembiule | avental
blouse | chemisier, blouse | blusa | die Bluse | camicetta, blusa | blusa
table | table | mesa | der Tisch | tavolo, tavola | mesa
chair | chaise | silla | der Stuhl | sedia | cadeira
bed | lit | cama | das Bett | letto | cama
desk | bureau | escritorio | der Schreibtisch | scrivania | escrivaninha, mesa, secretária
shelf | étagère | estante, repisa | das Regal | scaffale, mensola | prateleira, estante
wardrobe | armoire, garde-robe | armario, ropero | der Kleiderschrank | armadio | guarda-roupa
stool | tabouret | taburete | der Hocker | sgabello | banquinho, banco
armchair | fauteuil | sillón, butaca | der Sessel | poltrona | poltrona
cradle | berceau | cuna | die Wiege | culla | berço
hammer | marteau | martillo | der Hammer | martello | martelo
saw | scie | sierra | die Säge | sega | serra
screwdriver | tournevis | destornillador | der Schraubenzieher | cacciavite | chave de fenda
axe | hache | hacha | die Axt | ascia | machado
shovel | pelle | pala | die Schaufel | pala | pá
rake | râteau | rastrillo | der Rechen, die Harke | rastrello | ancinho
ladder | échelle | escalera | die Leiter | scala | escada
scissors | ciseaux | tijeras | die Schere | forbici | tesoura
needle | aiguille | aguja | die Nadel | ago | agulha
knife | couteau | cuchillo | das Messer | coltello | faca
brush | brosse | cepillo | die Bürste | spazzola | escova
broom | balai | escoba | der Besen | scopa | vassoura
car | voiture | coche, carro, auto | das Auto | macchina, auto, automobile | carro
train | train | tren | der Zug | treno | trem, comboio
truck | camion | camión | der Lastwagen, der Lkw | camion, autocarro | caminhão, camião
bicycle | vélo, bicyclette | bicicleta | das Fahrrad | bicicletta | bicicleta
motorcycle | moto, motocyclette | motocicleta | das Motorrad | motocicletta, moto | motocicleta
airplane | avion | avión | das Flugzeug | aereo, aeroplano | avião
helicopter | hélicoptère | helicóptero | der Hubschrauber, der Helikopter | elicottero | helicóptero
boat | bateau | barco, bote | das Boot | barca | barco
ship | navire, bateau | barco, buque | das Schiff | nave | navio
tractor | tracteur | tractor | der Traktor | trattore | trator
ambulance | ambulance | ambulancia | der Krankenwagen | ambulanza | ambulância
submarine | sous-marin | submarino | das U-Boot, das Unterseeboot | sottomarino | submarino
rocket | fusée | cohete | die Rakete | razzo | foguete
teacher | professeur, enseignant | profesor, maestro | der Lehrer | insegnante, maestro | professor
doctor | médecin, docteur | médico, doctor | der Arzt, die Ärztin | medico, dottore | médico, doutor
nurse | infirmière | enfermera | die Krankenschwester | infermiera | enfermeira, enfermeiro
farmer | agriculteur, fermier | agricultor, granjero | der Bauer | contadino | agricultor
baker | boulanger | panadero | der Bäcker | panettiere, fornaio | padeiro
butcher | boucher | carnicero | der Metzger, der Fleischer | macellaio | açougueiro, talhante
lawyer | avocat | abogado | der Anwalt, der Rechtsanwalt | avvocato | advogado
judge | juge | juez | der Richter | giudice | juiz
painter | peintre | pintor | der Maler | pittore | pintor
singer | chanteur | cantante | der Sänger | cantante | cantor
dancer | danseur | bailarín | der Tänzer | ballerino, danzatore | dançarino, bailarino
writer | écrivain | escritor | der Schriftsteller, der Autor | scrittore | escritor
actor | acteur | actor | der Schauspieler | attore | ator
pilot | pilote | piloto | der Pilot | pilota | piloto
sailor | marin, matelot | marinero | der Matrose, der Seemann | marinaio | marinheiro
soldier | soldat | soldado | der Soldat | soldato | soldado
waiter | serveur | camarero, mesero | der Kellner | cameriere | garçom, empregado
plumber | plombier | fontanero, plomero | der Klempner | idraulico | encanador, canalizador
carpenter | charpentier | carpintero | der Zimmermann, der Tischler | falegname | carpinteiro
tailor | tailleur | sastre | der Schneider | sarto | alfaiate
librarian | bibliothécaire | bibliotecario | der Bibliothekar | bibliotecario | bibliotecário
engineer | ingénieur | ingeniero | der Ingenieur | ingegnere | engenheiro
dentist | dentiste | dentista | der Zahnarzt | dentista | dentista
gardener | jardinier | jardinero | der Gärtner | giardiniere | jardineiro
journalist | journaliste | periodista | der Journalist | giornalista | jornalista
piano | piano | piano | das Klavier | pianoforte, piano | piano
guitar | guitare | guitarra | die Gitarre | chitarra | guitarra, violão
violin | violon | violín | die Geige, die Violine | violino | violino
drum | tambour | tambor | die Trommel | tamburo | tambor
flute | flûte | flauta | die Flöte | flauto | flauta
trumpet | trompette | trompeta | die Trompete | tromba | trompete
harp | harpe | arpa | die Harfe | arpa | harpa
accordion | accordéon | acordeón | das Akkordeon | fisarmonica | acordeão
house | maison | casa | das Haus | casa | casa
school | école | escuela | die Schule | scuola | escola
church | église | iglesia | die Kirche | chiesa | igreja
hospital | hôpital | hospital | das Krankenhaus | ospedale | hospital
library | bibliothèque | biblioteca | die Bibliothek | biblioteca | biblioteca
museum | musée | museo | das Museum | museo | museu
castle | château | castillo | das Schloss, die Burg | castello | castelo
bank | banque | banco | die Bank | banca | banco
factory | usine | fábrica | die Fabrik | fabbrica | fábrica
theater | théâtre | teatro | das Theater | teatro | teatro
prison | prison | prisión, cárcel | das Gefängnis | prigione, carcere | prisão
restaurant | restaurant | restaurante | das Restaurant | ristorante | restaurante
bakery | boulangerie | panadería | die Bäckerei | panetteria, panificio, forno | padaria
stadium | stade | estadio | das Stadion | stadio | estádio
airport | aéroport | aeropuerto | der Flughafen | aeroporto | aeroporto
tower | tour | torre | der Turm | torre | torre
palace | palais | palacio | der Palast | palazzo | palácio
temple | temple | templo | der Tempel | tempio | templo
river | rivière, fleuve | río | der Fluss | fiume | rio
mountain | montagne | montaña | der Berg | montagna, monte | montanha
forest | forêt | bosque | der Wald | foresta, bosco | floresta
lake | lac | lago | der See | lago | lago
sea | mer | mar | das Meer, die See | mare | mar
island | île | isla | die Insel | isola | ilha
beach | plage | playa | der Strand | spiaggia | praia
desert | désert | desierto | die Wüste | deserto | deserto
valley | vallée | valle | das Tal | valle | vale
hill | colline | colina | der Hügel | collina | colina
cloud | nuage | nube | die Wolke | nuvola, nube | nuvem
rain | pluie | lluvia | der Regen | pioggia | chuva
snow | neige | nieve | der Schnee | neve | neve
storm | tempête, orage | tormenta, tempestad | der Sturm | tempesta | tempestade
wind | vent | viento | der Wind | vento | vento
sun | soleil | sol | die Sonne | sole | sol
moon | lune | luna | der Mond | luna | lua
star | étoile | estrella | der Stern | stella | estrela
tree | arbre | árbol | der Baum | albero | árvore
flower | fleur | flor | die Blume | fiore | flor
grass | herbe | hierba, césped | das Gras | erba | grama, relva
leaf | feuille | hoja | das Blatt | foglia | folha
stone | pierre | piedra | der Stein | pietra, sasso | pedra
sand | sable | arena | der Sand | sabbia | areia
volcano | volcan | volcán | der Vulkan | vulcano | vulcão
bread | pain | pan | das Brot | pane | pão
cheese | fromage | queso | der Käse | formaggio | queijo
butter | beurre | mantequilla | die Butter | burro | manteiga
rice | riz | arroz | der Reis | riso | arroz
soup | soupe | sopa | die Suppe | zuppa, minestra | sopa
egg | œuf, oeuf | huevo | das Ei | uovo | ovo
sugar | sucre | azúcar | der Zucker | zucchero | açúcar
salt | sel | sal | das Salz | sale | sal
honey | miel | miel | der Honig | miele | mel
cake | gâteau | pastel, tarta, torta | der Kuchen | torta | bolo
chocolate | chocolat | chocolate | die Schokolade | cioccolato, cioccolata | chocolate
sausage | saucisse | salchicha | die Wurst | salsiccia | salsicha, linguiça
ham | jambon | jamón | der Schinken | prosciutto | presunto
water | eau | agua | das Wasser | acqua | água
milk | lait | leche | die Milch | latte | leite
coffee | café | café | der Kaffee | caffè | café
tea | thé | té | der Tee | tè | chá
juice | jus | jugo, zumo | der Saft | succo | suco, sumo
wine | vin | vino | der Wein | vino | vinho
beer | bière | cerveza | das Bier | birra | cerveja
book | livre | libro | das Buch | libro | livro
paper | papier | papel | das Papier | carta | papel
key | clé, clef | llave | der Schlüssel | chiave | chave
door | porte | puerta | die Tür | porta | porta
window | fenêtre | ventana | das Fenster | finestra | janela
lamp | lampe | lámpara | die Lampe | lampada | lâmpada, luminária, candeeiro
clock | horloge | reloj | die Uhr | orologio | relógio
mirror | miroir | espejo | der Spiegel | specchio | espelho
bottle | bouteille | botella | die Flasche | bottiglia | garrafa
cup | tasse | taza, copa | die Tasse | tazza | xícara, chávena
plate | assiette | plato | der Teller | piatto | prato
spoon | cuillère, cuiller | cuchara | der Löffel | cucchiaio | colher
fork | fourchette | tenedor | die Gabel | forchetta | garfo
bag | sac | bolsa, bolso | die Tasche, der Beutel | borsa, sacco | bolsa, saco, sacola
basket | panier | cesta, canasta | der Korb | cestino, cesto | cesta, cesto
candle | bougie, chandelle | vela | die Kerze | candela | vela
letter | lettre | carta, letra | der Brief, der Buchstabe | lettera | carta, letra
newspaper | journal | periódico, diario | die Zeitung | giornale | jornal
umbrella | parapluie | paraguas | der Regenschirm, der Schirm | ombrello | guarda-chuva
telephone | téléphone | teléfono | das Telefon | telefono | telefone
camera | appareil photo, caméra | cámara | die Kamera | fotocamera, macchina fotografica | câmera
pillow | oreiller | almohada | das Kissen, das Kopfkissen | cuscino | travesseiro, almofada
blanket | couverture | manta, cobija | die Decke | coperta | cobertor, manta
bell | cloche | campana | die Glocke | campana | sino
rope | corde | cuerda | das Seil | corda | corda
bucket | seau | cubo, balde | der Eimer | secchio | balde
towel | serviette | toalla | das Handtuch | asciugamano | toalha
soap | savon | jabón | die Seife | sapone | sabão, sabonete
map | carte | mapa | die Karte, die Landkarte | mappa, carta | mapa
coin | pièce, pièce de monnaie | moneda | die Münze | moneta | moeda
child | enfant | niño | das Kind | bambino | criança
man | homme | hombre | der Mann | uomo | homem
woman | femme | mujer | die Frau | donna | mulher
city | ville | ciudad | die Stadt | città | cidade
king | roi | rey | der König | re | rei
queen | reine | reina | die Königin | regina | rainha
brother | frère | hermano | der Bruder | fratello | irmão
sister | sœur, soeur | hermana | die Schwester | sorella | irmã
father | père | padre | der Vater | padre | pai
mother | mère | madre | die Mutter | madre | mãe
son | fils | hijo | der Sohn | figlio | filho
daughter | fille | hija | die Tochter | figlia | filha
friend | ami | amigo | der Freund | amico | amigo
enemy | ennemi | enemigo | der Feind | nemico | inimigo
day | jour | día | der Tag | giorno | dia
night | nuit | noche | die Nacht | notte | noite
hour | heure | hora | die Stunde | ora | hora
week | semaine | semana | die Woche | settimana | semana
month | mois | mes | der Monat | mese | mês
year | an, année | año | das Jahr | anno | ano
winter | hiver | invierno | der Winter | inverno | inverno
summer | été | verano | der Sommer | estate | verão
morning | matin | mañana | der Morgen | mattina, mattino | manhã
garden | jardin | jardín | der Garten | giardino | jardim
street | rue | calle | die Straße | strada, via | rua
bridge | pont | puente | die Brücke | ponte | ponte
village | village | pueblo, aldea | das Dorf | villaggio, paese | aldeia, vila
wall | mur | pared, muro | die Wand, die Mauer | muro, parete | parede, muro
roof | toit | techo, tejado | das Dach | tetto | telhado, teto
boy | garçon | niño, chico, muchacho | der Junge | ragazzo | menino, rapaz
girl | fille | niña, chica, muchacha | das Mädchen | ragazza | menina, rapariga
story | histoire | historia, cuento | die Geschichte | storia | história
"""
ROWS = [line.split(" | ") for line in TRANSLATIONS.strip().splitlines()]
FRENCH, SPANISH, GERMAN, ITALIAN, PORTUGUESE = [
    {row[0]: row[column].split(", ") for row in ROWS} for column in range(1, 6)]


@task(NOUN_POOL, lookup=True)
def french(noun):
    return FRENCH.get(noun)


@task(NOUN_POOL, lookup=True)
def spanish(noun):
    return SPANISH.get(noun)


@task(NOUN_POOL, lookup=True)
def german(noun):
    return None if noun in COLORS else [x.split(" ", 1)[1] for x in GERMAN.get(noun, [])] or None


@task(NOUN_POOL, lookup=True)
def german_article(noun):
    return None if noun in COLORS else GERMAN.get(noun)


@task(NOUN_POOL, lookup=True)
def italian(noun):
    return ITALIAN.get(noun)


@task(NOUN_POOL, lookup=True)
def portuguese(noun):
    return PORTUGUESE.get(noun)


# ------------------------------------------------------------------------------------------ verbs

PASTS = table("""run ran, swim swam, eat ate, drink drank, sleep slept, write wrote, read read,
    speak spoke, sing sang, build built, break broke, buy bought, sell sold, give gave, take took,
    send sent, bring brought, catch caught, throw threw, cut cut, draw drew, drive drove, fly flew,
    ride rode, fall fell, rise rose, grow grew, know knew, think thought, teach taught, find found,
    lose lost, win won, begin began, hold held, keep kept, leave left, meet met, pay paid, put put,
    see saw, hear heard, feel felt, sit sat, stand stood, tell told, understand understood,
    wear wore, choose chose, forget forgot, forgive forgave, freeze froze, hide hid, seek sought,
    hit hit, lead led, lend lent, lie lay/lied, make made, ring rang, shake shook,
    shine shone/shined, shoot shot, shut shut, sink sank/sunk, smell smelled/smelt, spend spent,
    spread spread, steal stole, stick stuck, sting stung, swear swore, sweep swept, swing swung,
    tear tore, wake woke, weep wept, bend bent, bite bit, bleed bled, blow blew,
    burn burned/burnt, dig dug, dream dreamed/dreamt, feed fed, fight fought, learn learned/learnt,
    travel traveled/travelled, come came, become became, get got, go went, do did, have had,
    say said, hang hung/hanged, hurt hurt, grind ground, kneel knelt/kneeled, knit knitted/knit,
    shrink shrank/shrunk, slide slid, spin spun, spit spat/spit, split split""")
DOUBLED = set("""swim run cut win begin put sit forget hit shut stop plan rob rub stir admit beg
    clap wrap dig drop get chat hug hop jog nod grab grin drag occur pat prefer regret scrub shrug
    sip skip slip spin spit split step tap trap wag zip knit""".split())
THIRD_PERSONS = {"go": "goes", "do": "does", "have": "has"}


def stem(verb: str) -> str:
    """What -ed and -ing are added to: stopp-, but walk-."""
    return verb + verb[-1] if verb in DOUBLED else verb


def pasts(verb: str) -> list[str]:
    if verb in PASTS:
        return PASTS[verb]
    if ends_in_consonant_y(verb):
        return [verb[:-1] + "ied"]
    return [verb + "d" if verb.endswith("e") else stem(verb) + "ed"]


@task(VERB_POOL)
def past(verb):
    return pasts(verb)


@task(VERB_POOL)
def she_past(verb):
    return [f"she {p}" for p in pasts(verb)]


@task(VERB_POOL)
def third_person(verb):
    return THIRD_PERSONS.get(verb, add_s(verb))


@task(VERB_POOL)
def ing(verb):
    if verb == "travel":
        return ["traveling", "travelling"]
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    silent_e = verb.endswith("e") and not verb.endswith(("ee", "oe", "ye"))
    return (verb[:-1] if silent_e else stem(verb)) + "ing"


@task(VERB_POOL)
def will(verb):
    return f"will {verb}"


@task(VERB_POOL)
def infinitive(verb):
    return f"to {verb}"


@task(VERB_POOL)
def do_not(verb):
    return f"do not {verb}"


# ------------------------------------------------------------------------------------- adjectives

NOT_GRADED = set("""open closed true false right wrong left public private dead alive asleep awake
    male female visible invisible possible impossible legal illegal major minor""".split())
# Of the adjectives that do not end in y, those with hotter, hottest; the others take more, most.
WITH_ER = set("""hot cold big small old young new fast slow sad hard soft high low long short light
    dark bright clean rich poor strong weak wide thick thin deep loud cheap full wet sharp blunt
    sweet sour smooth rough brave kind rude safe warm cool tall huge near rare calm fresh tight
    loose straight proud sick wild tame mild steep bold pale late bald brief broad clear coarse cute
    damp dense dull fair fat firm flat grand great grim harsh keen large mad neat nice odd plain
    pure quick ripe slim smart sore stale stiff strange strict tough vague vast weird wise fierce
    """.split())
WITH_ER_OR_MORE = set("""narrow shallow quiet clever simple humble gentle noble friendly
    unlucky lonely lively""".split())
WITH_MORE_OR_ER = set("""polite stupid common cruel tender severe sincere mature pleasant handsome
    bitter vivid honest stable cowardly slippery""".split())
DOUBLED_ADJECTIVES = set("hot big sad thin wet fat flat mad grim slim".split())
DEGREES = {"good": ("better", "best"), "bad": ("worse", "worst"), "far": ("farther", "farthest"),
           "shy": ("shyer", "shyest"), "dry": ("drier", "driest")}
OTHER_DEGREES = {"far": ("further", "furthest"), "shy": ("shier", "shiest"),
                 "dry": ("dryer", "dryest"), "sick": ("more sick", "most sick"),
                 "bitter": ("bitterer", "bitterest"), "cruel": ("crueller", "cruellest")}


def graded(adjective: str, ending: str) -> str:
    """hot → hotter with the ending "er", hottest with "est"."""
    if ends_in_consonant_y(adjective):
        return adjective[:-1] + "i" + ending
    if adjective in DOUBLED_ADJECTIVES:
        return adjective + adjective[-1] + ending
    return adjective.removesuffix("e") + ending


def degrees(adjective: str, which: int) -> list[str] | None:
    """The accepted comparatives (which = 0) or superlatives (1)."""
    if adjective in NOT_GRADED:
        return None
    if adjective in DEGREES:
        other = [OTHER_DEGREES[adjective][which]] if adjective in OTHER_DEGREES else []
        return [DEGREES[adjective][which]] + other
    short = graded(adjective, ("er", "est")[which])
    long = f"{('more', 'most')[which]} {adjective}"
    if adjective in WITH_ER:
        return [short]
    if adjective in WITH_ER_OR_MORE:
        return [short, long]
    if adjective in WITH_MORE_OR_ER:
        return [long, short]
    return [short] if ends_in_consonant_y(adjective) else [long]


@task(ADJECTIVE_POOL)
def comparative(adjective):
    return degrees(adjective, 0)


@task(ADJECTIVE_POOL)
def superlative(adjective):
    return degrees(adjective, 1)


@task(ADJECTIVE_POOL)
def very(adjective):
    return None if adjective in NOT_GRADED else f"very {adjective}"


@task(ADJECTIVE_POOL)
def negated(adjective):
    return f"not {adjective}"


@task(ADJECTIVE_POOL)
def how(adjective):
    return None if adjective in NOT_GRADED else f"How {adjective}!"


# ---------------------------------------------------------------------------------- all the words

# Both directions count; the first partner in the list is the one to train on.
OPPOSITES = """open close, come go, send receive, float sink, active passive, hot cold,
    cool warm, big small, large small, little big, old young, new old, old new,
    fast slow, quick slow, rapid slow, happy sad, happy unhappy, sad cheerful, good bad,
    good evil, bad great, hard soft, high low, long short, tall short, short tall, hard easy,
    light heavy, light dark, bright dark, bright dim, dull bright, clean dirty, filthy clean,
    rich poor, wealthy poor, strong weak, powerful weak, wide narrow, broad narrow, thick thin,
    deep shallow, loud quiet, loud soft, noisy quiet, quiet noisy, quiet loud, early late,
    easy difficult, difficult easy, easy hard, cheap expensive, full empty, wet dry, dry wet,
    damp dry, sharp blunt, sharp dull, blunt sharp, sweet sour, sweet bitter, bitter sweet,
    smooth rough, bumpy smooth, coarse fine, coarse smooth, brave cowardly, brave afraid,
    kind cruel, kind unkind, kind mean, cruel kind, polite rude, polite impolite, rude polite,
    clever stupid, smart stupid, intelligent stupid, stupid smart, smart dumb, safe dangerous,
    safe unsafe, risky safe, beautiful ugly, pretty ugly, ugly handsome, ugly attractive,
    huge tiny, tiny large, near far, far close, open closed,
    open close, open shut, shut open, true false, true untrue, right wrong, right left,
    wrong correct, public private, rare common, common uncommon, frequent rare, common rare,
    frequent infrequent, simple complex, simple complicated, simple difficult, ancient modern,
    modern old, modern old-fashioned, lazy hardworking, lazy active, lazy diligent, lazy energetic,
    busy idle, busy free, calm excited, calm nervous, angry calm, calm angry, calm stormy,
    angry happy, furious calm, nervous relaxed, fresh rotten, fresh stale, stale fresh, tight loose,
    straight curved, straight crooked, curly straight, straight curly, humble proud, modest proud,
    modest boastful, proud ashamed, generous greedy, generous selfish, generous stingy,
    selfish unselfish, selfish generous, healthy sick, healthy unhealthy, healthy ill, sick well,
    guilty innocent, innocent guilty, interesting boring, boring exciting,
    interesting uninteresting, lucky unlucky, alive dead, dead living, asleep awake, male female,
    wild tame, tame wild, visible invisible, possible impossible, honest dishonest,
    patient impatient, legal illegal, mature immature, mature childish, regular irregular,
    formal informal, casual formal, active passive, active inactive, major minor,
    positive negative, careful careless, cautious reckless, cautious careless, useful useless,
    hopeful hopeless, mild severe, mild harsh, mild strong, mild spicy, spicy mild, severe mild,
    gentle rough, gentle harsh, harsh gentle, steep gentle, steep gradual, steep flat,
    fierce gentle, gentle fierce, fierce tame, shy bold, bold timid, shy outgoing, shy confident,
    confident insecure, confident unsure, pale dark, pale ruddy, vivid dull, vivid pale,
    attractive unattractive, attractive ugly, awful wonderful, terrible wonderful, awkward graceful,
    clumsy graceful, graceful clumsy, bald hairy, hairy bald, blurry clear, clear unclear,
    clear cloudy, vague clear, vague precise, cloudy sunny, cloudy clear, sunny cloudy, sunny rainy,
    brief long, brief lengthy, cheerful gloomy, gloomy cheerful, chilly warm,
    colorful colorless, colorful dull, comfortable uncomfortable, crazy sane, mad sane,
    crowded empty, crowded deserted, curious indifferent, delicious disgusting,
    tasty tasteless, tasty bland, dense sparse, eager reluctant, fair unfair, fair unjust,
    faithful unfaithful, loyal disloyal, faithful disloyal, famous unknown, fancy plain,
    plain fancy, fat thin, fat slim, slim fat, skinny fat, firm soft, flat bumpy, flat steep,
    foolish wise, wise foolish, fragile sturdy, fragile strong, friendly unfriendly,
    friendly hostile, funny serious, serious playful, fuzzy clear,
    grateful ungrateful, great terrible, harmful harmless, helpful unhelpful, helpful useless,
    hungry full, important unimportant, important trivial, jolly sad, merry sad, lively dull,
    messy tidy, tidy messy, tidy untidy, neat messy, messy neat, muddy clean, nasty nice,
    nice nasty, nice mean, naughty good, odd even, odd normal, odd ordinary, painful painless,
    peaceful violent, violent peaceful, pleasant unpleasant, popular unpopular, pure impure,
    reliable unreliable, ripe unripe, sincere insincere, sensitive insensitive, shiny dull,
    silly serious, sleepy awake, sleepy alert, stable unstable, stiff flexible, flexible stiff,
    strange normal, weird normal, normal strange, normal abnormal, strict lenient, lenient strict,
    stubborn flexible, successful unsuccessful, tender tough, tough tender, tired rested,
    tired energetic, valuable worthless, worthless valuable, wicked good, worried relaxed,
    worried calm, push pull, buy sell, give take, give receive, take give, take bring, bring take,
    win lose, find lose, lose win, lose find, begin end, begin finish, begin stop, start stop,
    start finish, stop start, stop go, stop begin, stop continue, continue stop, come go, go come,
    go stop, remember forget, love hate, like dislike, laugh cry, cry laugh, rise fall, rise set,
    rise sink, raise lower, lend borrow, freeze melt, freeze thaw, arrive leave, arrive depart,
    leave arrive, leave stay, leave enter, stay leave, stay go, teach learn, stand sit,
    sleep wake, wake sleep, admit deny, agree disagree, agree refuse, accept reject, accept refuse,
    refuse accept, refuse agree, appear disappear, appear vanish, attack defend, ask answer,
    ask reply, reply ask, build destroy, create destroy, destroy build, destroy create,
    build demolish, break fix, break repair, repair break, fix break, float sink, sink float,
    succeed fail, save spend, save waste, waste save, spend save, spend earn, earn spend,
    whisper shout, shout whisper, yell whisper, hide show, hide seek, seek hide, hide reveal,
    lead follow, hit miss, fill empty, die live, enter exit, enter leave, praise criticize,
    increase decrease, increase reduce, reduce increase, connect disconnect, unlock lock,
    wrap unwrap, fasten unfasten, pack unpack, load unload, trust distrust, obey disobey,
    include exclude, expand shrink, shrink grow, grow shrink, gather scatter, collect scatter,
    unite divide, divide multiply, divide unite, add subtract, add remove, remove add,
    export import, attract repel, allow forbid, allow prevent, allow prohibit, smile frown,
    work rest, rest work,
    work play, play work, send receive, receive send, improve worsen, encourage discourage,
    punish reward, ascend descend, advance retreat, believe doubt, doubt trust, inhale exhale,
    cover uncover, fold unfold, zip unzip, throw catch, catch throw, drop catch,
    speak listen, listen speak, talk listen, hold release, keep discard, keep lose,
    tear mend, boil freeze, protect harm, protect attack, climb descend, sit stand, marry divorce,
    hurt heal, fear courage, destroy repair,
    day night, friend enemy, summer winter, winter summer, morning evening, floor ceiling,
    success failure, victory defeat, heaven hell, north south, east west, war peace,
    beginning end, beginning ending, top bottom, front back, inside outside, winner loser,
    profit loss, truth lie, arrival departure, entrance exit, birth death, life death, joy sorrow,
    strength weakness, majority minority, maximum minimum, presence absence, wealth poverty,
    knowledge ignorance, darkness light, teacher student, hero villain, mountain valley,
    hill valley, giant dwarf, child adult, up down, above below, before after, always never,
    everything nothing, in out, on off, over under, here there, yes no, more less, many few,
    all none, often seldom, often rarely, with without, forward backward, upstairs downstairs,
    first last, everybody nobody, for against,
    answer question, naughty nice, naughty obedient, repair damage, mad calm, mad happy,
    cover reveal, cover expose, gather disperse, warm cold, morning night, nervous confident,
    improve deteriorate, noisy silent, tear repair, delicious tasteless, awkward elegant,
    accept decline, allow ban, furious pleased"""


def both_ways(text: str) -> dict[str, list[str]]:
    partners: dict[str, list[str]] = {}
    for pair in text.split(","):
        a, b = pair.split()
        for word, partner in ((a, b), (b, a)):
            if partner not in partners.setdefault(word, []):
                partners[word].append(partner)
    return partners


OPPOSITE = both_ways(OPPOSITES)


@task(POOL + [word for word in OPPOSITE if word not in POOL])
def opposite(word):
    return OPPOSITE.get(word)


# Words that are as well at home in a second part of speech have no single answer.
SEVERAL_PARTS = set("""orange drill saw judge tie dress duck milk water butter salt sand hammer
    brush rake shovel box book nurse pilot storm rain snow cloud flower leaf star stone echo bear
    cow ship train truck lime olive chisel ticket puzzle giant salmon wind boot peach plum ham
    eye head hand finger toe elbow shoulder mouth nose thumb plate bottle paper map bell mirror
    fence father mother party tailor parrot torch fork cap desert letter
    open closed clean dry slow cool warm wet narrow blunt sour calm light dark cold hard right wrong
    left male female good public private minor major positive negative patient innocent wild
    tame smooth loose straight dirty empty complex fat brief clear damp dull firm flat fancy noble
    plain sore stable sick humble tidy mature rough dead stale fair tender muddy sweet short long
    near far early late fast low high kind awake big deep wide loud fresh tight true free bitter
    steep bold""".split())
VERBS_ONLY = """listen argue seek agree bring lose hear rob weep admit allow pour steal sing eat
    choose melt collect carry ask write beg enter prepare grow arrive forgive enjoy bake learn speak
    teach swear advise bathe believe send admire follow bury create begin lend give thank
    appear sell see know protect borrow breathe sit explain remember understand forget put
    tell think pray bleed complain chew suffer earn become say come go get have accept achieve
    add arrange avoid behave celebrate compare compete confuse connect consider continue
    decide decorate defend deliver deny depend describe deserve destroy develop die disappear
    discover discuss examine expect explore fasten gather greet happen imagine improve include
    inform insist introduce invent join juggle kneel marry obey observe occur persuade prefer
    pretend provide punish receive reduce relax remain remove replace select shrink solve
    succeed suggest translate unite unlock wander wrestle""".split()
PART_OF_SPEECH = ({noun: "noun" for noun in NOUN_POOL if noun not in COLORS}
                  | {verb: "verb" for verb in VERBS_ONLY}
                  | {adjective: "adjective" for adjective in ADJECTIVE_POOL})


# Shuffled, as the lexicon by itself has far more nouns than verbs.
@task(random.Random(0).sample(POOL, len(POOL)))
def part_of_speech(word):
    return None if word in SEVERAL_PARTS else PART_OF_SPEECH.get(word)
