"""Look-ups of facts: countries, their capitals, chemical elements, classic books, famous people.

In the tables / separates accepted answers (the first is trained on), - means: no sure answer.
"""
from dataclasses import dataclass

from data.kinds import task

CONTINENTS = {"AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "North America",
              "SA": "South America", "OC": "Oceania"}

# country | capital | continent | currency | calling code | ISO 2 | ISO 3 | adjective | language
COUNTRY_TABLE = """
Afghanistan|Kabul|AS|afghani|93|AF|AFG|Afghan|Pashto/Dari
Albania|Tirana|EU|lek|355|AL|ALB|Albanian|Albanian
Algeria|Algiers|AF|dinar|213|DZ|DZA|Algerian|Arabic/Berber
Andorra|Andorra la Vella|EU|euro|376|AD|AND|Andorran|Catalan
Angola|Luanda|AF|kwanza|244|AO|AGO|Angolan|Portuguese
Antigua and Barbuda|St. John's/Saint John's|NA|dollar|-|AG|ATG|Antiguan|English
Argentina|Buenos Aires|SA|peso|54|AR|ARG|Argentine/Argentinian/Argentinean|Spanish
Armenia|Yerevan|AS/EU|dram|374|AM|ARM|Armenian|Armenian
Australia|Canberra|OC|dollar|61|AU|AUS|Australian|English
Austria|Vienna|EU|euro|43|AT|AUT|Austrian|German
Azerbaijan|Baku|AS/EU|manat|994|AZ|AZE|Azerbaijani|Azerbaijani
Bahamas|Nassau|NA|dollar|-|BS|BHS|Bahamian|English
Bahrain|Manama|AS|dinar|973|BH|BHR|Bahraini|Arabic
Bangladesh|Dhaka|AS|taka|880|BD|BGD|Bangladeshi|Bengali/Bangla
Barbados|Bridgetown|NA|dollar|-|BB|BRB|Barbadian/Bajan|English
Belarus|Minsk|EU|ruble/rouble|375|BY|BLR|Belarusian|Belarusian/Russian
Belgium|Brussels|EU|euro|32|BE|BEL|Belgian|Dutch/French
Belize|Belmopan|NA|dollar|501|BZ|BLZ|Belizean|English
Benin|Porto-Novo|AF|franc|229|BJ|BEN|Beninese|French
Bhutan|Thimphu|AS|ngultrum|975|BT|BTN|Bhutanese|Dzongkha
Bolivia|Sucre/La Paz|SA|boliviano|591|BO|BOL|Bolivian|Spanish
Bosnia and Herzegovina|Sarajevo|EU|mark/convertible mark|387|BA|BIH|Bosnian|Bosnian/Serbian/Croatian
Botswana|Gaborone|AF|pula|267|BW|BWA|Botswanan/Motswana|English/Tswana/Setswana
Brazil|Brasilia/Brasília|SA|real|55|BR|BRA|Brazilian|Portuguese
Brunei|Bandar Seri Begawan|AS|dollar|673|BN|BRN|Bruneian|Malay
Bulgaria|Sofia|EU|lev/euro|359|BG|BGR|Bulgarian|Bulgarian
Burkina Faso|Ouagadougou|AF|franc|226|BF|BFA|Burkinabe/Burkinabé|-
Burundi|Gitega|AF|franc|257|BI|BDI|Burundian|Kirundi/French
Cambodia|Phnom Penh|AS|riel|855|KH|KHM|Cambodian|Khmer
Cameroon|Yaounde/Yaoundé|AF|franc|237|CM|CMR|Cameroonian|French/English
Canada|Ottawa|NA|dollar|1|CA|CAN|Canadian|English/French
Cape Verde|Praia|AF|escudo|238|CV|CPV|Cape Verdean|Portuguese
Central African Republic|Bangui|AF|franc|236|CF|CAF|Central African|French/Sango
Chad|N'Djamena|AF|franc|235|TD|TCD|Chadian|French/Arabic
Chile|Santiago|SA|peso|56|CL|CHL|Chilean|Spanish
China|Beijing|AS|yuan/renminbi|86|CN|CHN|Chinese|Chinese/Mandarin/Mandarin Chinese
Colombia|Bogota/Bogotá|SA|peso|57|CO|COL|Colombian|Spanish
Comoros|Moroni|AF|franc|269|KM|COM|Comorian/Comoran|Comorian/Arabic/French
Costa Rica|San Jose/San José|NA|colon/colón|506|CR|CRI|Costa Rican|Spanish
Croatia|Zagreb|EU|euro|385|HR|HRV|Croatian|Croatian
Cuba|Havana|NA|peso|53|CU|CUB|Cuban|Spanish
Cyprus|Nicosia|EU/AS|euro|357|CY|CYP|Cypriot|Greek
Czech Republic|Prague|EU|koruna|420|CZ|CZE|Czech|Czech
Democratic Republic of the Congo|Kinshasa|AF|franc|243|CD|COD|Congolese|French
Denmark|Copenhagen|EU|krone|45|DK|DNK|Danish|Danish
Djibouti|Djibouti/Djibouti City|AF|franc|253|DJ|DJI|Djiboutian|French/Arabic
Dominica|Roseau|NA|dollar|-|DM|DMA|Dominican|English
Dominican Republic|Santo Domingo|NA|peso|-|DO|DOM|Dominican|Spanish
East Timor|Dili|AS|dollar|670|TL|TLS|East Timorese/Timorese|Portuguese/Tetum
Ecuador|Quito|SA|dollar|593|EC|ECU|Ecuadorian|Spanish
Egypt|Cairo|AF|pound|20|EG|EGY|Egyptian|Arabic
El Salvador|San Salvador|NA|dollar|503|SV|SLV|Salvadoran/Salvadorian|Spanish
Equatorial Guinea|Malabo|AF|franc|240|GQ|GNQ|Equatoguinean/Equatorial Guinean|Spanish
Eritrea|Asmara|AF|nakfa|291|ER|ERI|Eritrean|Tigrinya
Estonia|Tallinn|EU|euro|372|EE|EST|Estonian|Estonian
Eswatini|Mbabane/Lobamba|AF|lilangeni|268|SZ|SWZ|Swazi|Swazi/English
Ethiopia|Addis Ababa|AF|birr|251|ET|ETH|Ethiopian|Amharic
Fiji|Suva|OC|dollar|679|FJ|FJI|Fijian|English/Fijian
Finland|Helsinki|EU|euro|358|FI|FIN|Finnish|Finnish
France|Paris|EU|euro|33|FR|FRA|French|French
Gabon|Libreville|AF|franc|241|GA|GAB|Gabonese|French
Gambia|Banjul|AF|dalasi|220|GM|GMB|Gambian|English
Georgia|Tbilisi|AS/EU|lari|995|GE|GEO|Georgian|Georgian
Germany|Berlin|EU|euro|49|DE|DEU|German|German
Ghana|Accra|AF|cedi|233|GH|GHA|Ghanaian|English
Greece|Athens|EU|euro|30|GR|GRC|Greek|Greek
Grenada|St. George's/Saint George's|NA|dollar|-|GD|GRD|Grenadian|English
Guatemala|Guatemala City|NA|quetzal|502|GT|GTM|Guatemalan|Spanish
Guinea|Conakry|AF|franc|224|GN|GIN|Guinean|French
Guinea-Bissau|Bissau|AF|franc|245|GW|GNB|Bissau-Guinean|Portuguese
Guyana|Georgetown|SA|dollar|592|GY|GUY|Guyanese|English
Haiti|Port-au-Prince|NA|gourde|509|HT|HTI|Haitian|Haitian Creole/French
Honduras|Tegucigalpa|NA|lempira|504|HN|HND|Honduran|Spanish
Hungary|Budapest|EU|forint|36|HU|HUN|Hungarian|Hungarian
Iceland|Reykjavik/Reykjavík|EU|krona/króna|354|IS|ISL|Icelandic|Icelandic
India|New Delhi|AS|rupee|91|IN|IND|Indian|Hindi/English
Indonesia|Jakarta|AS|rupiah|62|ID|IDN|Indonesian|Indonesian
Iran|Tehran|AS|rial|98|IR|IRN|Iranian|Persian/Farsi
Iraq|Baghdad|AS|dinar|964|IQ|IRQ|Iraqi|Arabic/Kurdish
Ireland|Dublin|EU|euro|353|IE|IRL|Irish|English/Irish
Israel|-|AS|shekel|972|IL|ISR|Israeli|Hebrew
Italy|Rome|EU|euro|39|IT|ITA|Italian|Italian
Ivory Coast|Yamoussoukro|AF|franc|225|CI|CIV|Ivorian|French
Jamaica|Kingston|NA|dollar|-|JM|JAM|Jamaican|English
Japan|Tokyo|AS|yen|81|JP|JPN|Japanese|Japanese
Jordan|Amman|AS|dinar|962|JO|JOR|Jordanian|Arabic
Kazakhstan|Astana|AS|tenge|7|KZ|KAZ|Kazakh/Kazakhstani|Kazakh/Russian
Kenya|Nairobi|AF|shilling|254|KE|KEN|Kenyan|Swahili/English
Kiribati|South Tarawa/Tarawa|OC|dollar|686|KI|KIR|I-Kiribati|English/Gilbertese
Kuwait|Kuwait City|AS|dinar|965|KW|KWT|Kuwaiti|Arabic
Kyrgyzstan|Bishkek|AS|som|996|KG|KGZ|Kyrgyz/Kyrgyzstani|Kyrgyz/Russian
Laos|Vientiane|AS|kip|856|LA|LAO|Laotian/Lao|Lao
Latvia|Riga|EU|euro|371|LV|LVA|Latvian|Latvian
Lebanon|Beirut|AS|pound/lira|961|LB|LBN|Lebanese|Arabic
Lesotho|Maseru|AF|loti|266|LS|LSO|-|Sesotho/Sotho/English
Liberia|Monrovia|AF|dollar|231|LR|LBR|Liberian|English
Libya|Tripoli|AF|dinar|218|LY|LBY|Libyan|Arabic
Liechtenstein|Vaduz|EU|franc|423|LI|LIE|-|German
Lithuania|Vilnius|EU|euro|370|LT|LTU|Lithuanian|Lithuanian
Luxembourg|Luxembourg/Luxembourg City|EU|euro|352|LU|LUX|Luxembourgish|Luxembourgish/French/German
Madagascar|Antananarivo|AF|ariary|261|MG|MDG|Malagasy|Malagasy/French
Malawi|Lilongwe|AF|kwacha|265|MW|MWI|Malawian|English
Malaysia|Kuala Lumpur|AS|ringgit|60|MY|MYS|Malaysian|Malay
Maldives|Male/Malé|AS|rufiyaa|960|MV|MDV|Maldivian|Dhivehi/Maldivian
Mali|Bamako|AF|franc|223|ML|MLI|Malian|-
Malta|Valletta|EU|euro|356|MT|MLT|Maltese|Maltese/English
Marshall Islands|Majuro|OC|dollar|692|MH|MHL|Marshallese|Marshallese/English
Mauritania|Nouakchott|AF|ouguiya|222|MR|MRT|Mauritanian|Arabic
Mauritius|Port Louis|AF|rupee|230|MU|MUS|Mauritian|English/French
Mexico|Mexico City|NA|peso|52|MX|MEX|Mexican|Spanish
Micronesia|Palikir|OC|dollar|691|FM|FSM|Micronesian|English
Moldova|Chisinau/Chișinău|EU|leu|373|MD|MDA|Moldovan|Romanian
Monaco|Monaco|EU|euro|377|MC|MCO|Monegasque/Monacan|French
Mongolia|Ulaanbaatar/Ulan Bator|AS|tugrik/tögrög/togrog|976|MN|MNG|Mongolian|Mongolian
Montenegro|Podgorica|EU|euro|382|ME|MNE|Montenegrin|Montenegrin
Morocco|Rabat|AF|dirham|212|MA|MAR|Moroccan|Arabic/Berber
Mozambique|Maputo|AF|metical|258|MZ|MOZ|Mozambican|Portuguese
Myanmar|Naypyidaw|AS|kyat|95|MM|MMR|Burmese|Burmese
Namibia|Windhoek|AF|dollar|264|NA|NAM|Namibian|English
Nauru|Yaren|OC|dollar|674|NR|NRU|Nauruan|Nauruan/English
Nepal|Kathmandu|AS|rupee|977|NP|NPL|Nepalese/Nepali|Nepali
Netherlands|Amsterdam|EU|euro|31|NL|NLD|Dutch|Dutch
New Zealand|Wellington|OC|dollar|64|NZ|NZL|-|English
Nicaragua|Managua|NA|cordoba/córdoba|505|NI|NIC|Nicaraguan|Spanish
Niger|Niamey|AF|franc|227|NE|NER|Nigerien|-
Nigeria|Abuja|AF|naira|234|NG|NGA|Nigerian|English
North Korea|Pyongyang|AS|won|850|KP|PRK|North Korean|Korean
North Macedonia|Skopje|EU|denar|389|MK|MKD|Macedonian/North Macedonian|Macedonian
Norway|Oslo|EU|krone|47|NO|NOR|Norwegian|Norwegian
Oman|Muscat|AS|rial|968|OM|OMN|Omani|Arabic
Pakistan|Islamabad|AS|rupee|92|PK|PAK|Pakistani|Urdu/English
Palau|Ngerulmud|OC|dollar|680|PW|PLW|Palauan|Palauan/English
Panama|Panama City|NA|balboa/dollar|507|PA|PAN|Panamanian|Spanish
Papua New Guinea|Port Moresby|OC|kina|675|PG|PNG|Papua New Guinean|English/Tok Pisin
Paraguay|Asuncion/Asunción|SA|guarani/guaraní|595|PY|PRY|Paraguayan|Spanish/Guarani
Peru|Lima|SA|sol|51|PE|PER|Peruvian|Spanish
Philippines|Manila|AS|peso|63|PH|PHL|Filipino/Philippine|Filipino/English
Poland|Warsaw|EU|zloty/złoty|48|PL|POL|Polish|Polish
Portugal|Lisbon|EU|euro|351|PT|PRT|Portuguese|Portuguese
Qatar|Doha|AS|riyal|974|QA|QAT|Qatari|Arabic
Republic of the Congo|Brazzaville|AF|franc|242|CG|COG|Congolese|French
Romania|Bucharest|EU|leu|40|RO|ROU|Romanian|Romanian
Russia|Moscow|EU/AS|ruble/rouble|7|RU|RUS|Russian|Russian
Rwanda|Kigali|AF|franc|250|RW|RWA|Rwandan|Kinyarwanda/English/French
Saint Kitts and Nevis|Basseterre|NA|dollar|-|KN|KNA|Kittitian|English
Saint Lucia|Castries|NA|dollar|-|LC|LCA|Saint Lucian|English
Saint Vincent and the Grenadines|Kingstown|NA|dollar|-|VC|VCT|Vincentian/Saint Vincentian|English
Samoa|Apia|OC|tala|685|WS|WSM|Samoan|Samoan/English
San Marino|San Marino|EU|euro|378|SM|SMR|Sammarinese|Italian
Sao Tome and Principe|Sao Tome/São Tomé|AF|dobra|239|ST|STP|Sao Tomean/Santomean|Portuguese
Saudi Arabia|Riyadh|AS|riyal|966|SA|SAU|Saudi/Saudi Arabian|Arabic
Senegal|Dakar|AF|franc|221|SN|SEN|Senegalese|French
Serbia|Belgrade|EU|dinar|381|RS|SRB|Serbian|Serbian
Seychelles|Victoria|AF|rupee|248|SC|SYC|Seychellois|English/French/Seychellois Creole
Sierra Leone|Freetown|AF|leone|232|SL|SLE|Sierra Leonean|English
Singapore|Singapore|AS|dollar|65|SG|SGP|Singaporean|English/Malay/Mandarin/Tamil
Slovakia|Bratislava|EU|euro|421|SK|SVK|Slovak/Slovakian|Slovak
Slovenia|Ljubljana|EU|euro|386|SI|SVN|Slovenian/Slovene|Slovenian/Slovene
Solomon Islands|Honiara|OC|dollar|677|SB|SLB|-|English
Somalia|Mogadishu|AF|shilling|252|SO|SOM|Somali|Somali
South Africa|Pretoria/Cape Town/Bloemfontein|AF|rand|27|ZA|ZAF|South African|-
South Korea|Seoul|AS|won|82|KR|KOR|South Korean|Korean
South Sudan|Juba|AF|pound|211|SS|SSD|South Sudanese|English
Spain|Madrid|EU|euro|34|ES|ESP|Spanish|Spanish
Sri Lanka|Sri Jayawardenepura Kotte/Kotte/Colombo|AS|rupee|94|LK|LKA|Sri Lankan|Sinhala/Tamil
Sudan|Khartoum|AF|pound|249|SD|SDN|Sudanese|Arabic
Suriname|Paramaribo|SA|dollar|597|SR|SUR|Surinamese|Dutch
Sweden|Stockholm|EU|krona|46|SE|SWE|Swedish|Swedish
Switzerland|Bern/Berne|EU|franc|41|CH|CHE|Swiss|German/French/Italian
Syria|Damascus|AS|pound|963|SY|SYR|Syrian|Arabic
Taiwan|Taipei|AS|dollar|886|TW|TWN|Taiwanese|Mandarin/Chinese/Mandarin Chinese
Tajikistan|Dushanbe|AS|somoni|992|TJ|TJK|Tajik/Tajikistani|Tajik
Tanzania|Dodoma|AF|shilling|255|TZ|TZA|Tanzanian|Swahili/English
Thailand|Bangkok|AS|baht|66|TH|THA|Thai|Thai
Togo|Lome/Lomé|AF|franc|228|TG|TGO|Togolese|French
Tonga|Nuku'alofa/Nukuʻalofa|OC|pa'anga/paanga|676|TO|TON|Tongan|Tongan/English
Trinidad and Tobago|Port of Spain|NA|dollar|-|TT|TTO|Trinidadian|English
Tunisia|Tunis|AF|dinar|216|TN|TUN|Tunisian|Arabic
Turkey|Ankara|AS/EU|lira|90|TR|TUR|Turkish|Turkish
Turkmenistan|Ashgabat|AS|manat|993|TM|TKM|Turkmen|Turkmen
Tuvalu|Funafuti|OC|dollar|688|TV|TUV|Tuvaluan|Tuvaluan/English
Uganda|Kampala|AF|shilling|256|UG|UGA|Ugandan|English/Swahili
Ukraine|Kyiv/Kiev|EU|hryvnia|380|UA|UKR|Ukrainian|Ukrainian
United Arab Emirates|Abu Dhabi|AS|dirham|971|AE|ARE|Emirati|Arabic
United Kingdom|London|EU|pound|44|GB|GBR|British|English
United States|Washington/Washington, D.C.|NA|dollar|1|US|USA|American|English
Uruguay|Montevideo|SA|peso|598|UY|URY|Uruguayan|Spanish
Uzbekistan|Tashkent|AS|som/sum|998|UZ|UZB|Uzbek/Uzbekistani|Uzbek
Vanuatu|Port Vila|OC|vatu|678|VU|VUT|Vanuatuan/Ni-Vanuatu|Bislama/English/French
Venezuela|Caracas|SA|bolivar/bolívar|58|VE|VEN|Venezuelan|Spanish
Vietnam|Hanoi|AS|dong|84|VN|VNM|Vietnamese|Vietnamese
Yemen|Sanaa/Sana'a|AS|rial|967|YE|YEM|Yemeni|Arabic
Zambia|Lusaka|AF|kwacha|260|ZM|ZMB|Zambian|English
Zimbabwe|Harare|AF|-|263|ZW|ZWE|Zimbabwean|English
"""
WITH_THE = """Bahamas|Central African Republic|Comoros|Czech Republic|Dominican Republic|Gambia
Democratic Republic of the Congo|Maldives|Marshall Islands|Netherlands|Philippines
Republic of the Congo|Seychelles|Solomon Islands|United Arab Emirates|United Kingdom
United States""".replace("\n", "|").split("|")


ALIASES = {"Cape Verde": "Cabo Verde", "Czech Republic": "Czechia", "East Timor": "Timor-Leste",
           "Ivory Coast": "Côte d'Ivoire", "Turkey": "Türkiye", "United States": "USA",
           "United Kingdom": "UK", "Eswatini": "Swaziland", "Myanmar": "Burma",
           "Sao Tome and Principe": "São Tomé and Príncipe", "Gambia": "The Gambia",
           "Democratic Republic of the Congo": "DR Congo"}


def cell(text: str) -> list[str] | None:
    return None if text == "-" else text.split("/")


@dataclass(frozen=True)
class Country:
    name: str
    capital: list | None
    continent: list
    currency: list | None
    calling: list | None
    iso2: str
    iso3: str
    adjective: list | None
    language: list | None

    def __str__(self) -> str:
        return self.name

    @property
    def domain(self) -> str:
        return ".uk" if self.iso2 == "GB" else "." + self.iso2.lower()


@dataclass(frozen=True)
class Capital:
    name: str
    country: Country

    def __str__(self) -> str:
        return self.name


def read_country(line: str) -> Country:
    name, capital, continent, currency, calling, iso2, iso3, adjective, language = line.split("|")
    return Country(name, cell(capital), [CONTINENTS[c] for c in continent.split("/")],
                   cell(currency), cell(calling), iso2, iso3, cell(adjective), cell(language))


COUNTRIES = [read_country(line) for line in COUNTRY_TABLE.strip().splitlines()]
CAPITALS = [Capital(c.capital[0], c) for c in COUNTRIES if c.capital and c.capital[0] != c.name]


@task(COUNTRIES, lookup=True)
def capital(country):
    return country.capital


@task(COUNTRIES, lookup=True)
def capital_sentence(country):
    names = [f"the {country}", str(country)] if country.name in WITH_THE else [str(country)]
    return country.capital and [f"The capital of {name} is {city.rstrip('.')}."
                                for city in country.capital for name in names]


@task(COUNTRIES, lookup=True)
def continent(country):
    return country.continent


@task(COUNTRIES, lookup=True)
def currency(country):
    return country.currency


@task(COUNTRIES, lookup=True)
def calling_code(country):
    return country.calling and [f"+{code}" for code in country.calling]


@task(COUNTRIES, lookup=True)
def domain(country):
    return country.domain


@task(COUNTRIES, lookup=True)
def iso3(country):
    return country.iso3


@task(COUNTRIES, lookup=True)
def nationality(country):
    return country.adjective


@task(COUNTRIES, lookup=True)
def language(country):
    return country.language


@task(CAPITALS, lookup=True)
def city_country(city):
    name = city.country.name
    return [name, ALIASES[name]] if name in ALIASES else name


# In the order of their atomic numbers.
ELEMENT_TABLE = """
hydrogen H, helium He, lithium Li, beryllium Be, boron B, carbon C, nitrogen N, oxygen O,
fluorine F, neon Ne, sodium Na, magnesium Mg, aluminum/aluminium Al, silicon Si, phosphorus P,
sulfur/sulphur S, chlorine Cl, argon Ar, potassium K, calcium Ca, scandium Sc, titanium Ti,
vanadium V, chromium Cr, manganese Mn, iron Fe, cobalt Co, nickel Ni, copper Cu, zinc Zn,
gallium Ga, germanium Ge, arsenic As, selenium Se, bromine Br, krypton Kr, rubidium Rb,
strontium Sr, yttrium Y, zirconium Zr, niobium Nb, molybdenum Mo, technetium Tc, ruthenium Ru,
rhodium Rh, palladium Pd, silver Ag, cadmium Cd, indium In, tin Sn, antimony Sb, tellurium Te,
iodine I, xenon Xe, cesium/caesium Cs, barium Ba, lanthanum La, cerium Ce, praseodymium Pr,
neodymium Nd, promethium Pm, samarium Sm, europium Eu, gadolinium Gd, terbium Tb, dysprosium Dy,
holmium Ho, erbium Er, thulium Tm, ytterbium Yb, lutetium Lu, hafnium Hf, tantalum Ta, tungsten W,
rhenium Re, osmium Os, iridium Ir, platinum Pt, gold Au, mercury Hg, thallium Tl, lead Pb,
bismuth Bi, polonium Po, astatine At, radon Rn, francium Fr, radium Ra, actinium Ac, thorium Th,
protactinium Pa, uranium U, neptunium Np, plutonium Pu, americium Am, curium Cm, berkelium Bk,
californium Cf, einsteinium Es, fermium Fm, mendelevium Md, nobelium No, lawrencium Lr,
rutherfordium Rf, dubnium Db, seaborgium Sg, bohrium Bh, hassium Hs, meitnerium Mt,
darmstadtium Ds, roentgenium Rg, copernicium Cn, nihonium Nh, flerovium Fl, moscovium Mc,
livermorium Lv, tennessine Ts, oganesson Og
"""


SYMBOLS = {names.split("/")[0]: symbol for names, symbol in
           (entry.split() for entry in ELEMENT_TABLE.split(","))}


@task(list(SYMBOLS), lookup=True)
def symbol(element):
    return SYMBOLS[element]


WORK_TABLE = """
William Shakespeare: Hamlet; Macbeth; Othello; King Lear; Romeo and Juliet; The Tempest
William Shakespeare: Twelfth Night; As You Like It; The Merchant of Venice
William Shakespeare: Much Ado About Nothing; Julius Caesar
William Shakespeare: A Midsummer Night's Dream; The Taming of the Shrew; Measure for Measure
Charles Dickens: Oliver Twist; David Copperfield; Great Expectations; A Tale of Two Cities
Charles Dickens: Bleak House; Hard Times; A Christmas Carol; Little Dorrit; The Pickwick Papers
Jane Austen: Pride and Prejudice; Emma; Sense and Sensibility; Persuasion; Mansfield Park
Charlotte Bronte/Charlotte Brontë: Jane Eyre; Villette
Emily Bronte/Emily Brontë: Wuthering Heights
George Eliot: Middlemarch; Silas Marner; The Mill on the Floss; Daniel Deronda; Adam Bede
Thomas Hardy: Tess of the d'Urbervilles; Jude the Obscure; Far from the Madding Crowd
Thomas Hardy: The Return of the Native; The Mayor of Casterbridge
Mary Shelley: Frankenstein
Bram Stoker: Dracula
Oscar Wilde: The Picture of Dorian Gray; The Importance of Being Earnest; Lady Windermere's Fan
Robert Louis Stevenson: Treasure Island; Kidnapped; The Strange Case of Dr Jekyll and Mr Hyde
Lewis Carroll: Alice's Adventures in Wonderland; Through the Looking-Glass
Daniel Defoe: Robinson Crusoe; Moll Flanders
Jonathan Swift: Gulliver's Travels; A Modest Proposal
Rudyard Kipling: The Jungle Book; Kim; Just So Stories
Joseph Conrad: Heart of Darkness; Lord Jim; Nostromo; The Secret Agent
H. G. Wells/H.G. Wells: The Time Machine; The War of the Worlds; The Invisible Man
James Joyce: Ulysses; Dubliners; Finnegans Wake; A Portrait of the Artist as a Young Man
Virginia Woolf: Mrs Dalloway; To the Lighthouse; Orlando; The Waves; A Room of One's Own
George Orwell: Animal Farm; Nineteen Eighty-Four; Homage to Catalonia; Burmese Days
Aldous Huxley: Brave New World; Point Counter Point
D. H. Lawrence/D.H. Lawrence: Sons and Lovers; Women in Love; Lady Chatterley's Lover
E. M. Forster/E.M. Forster: A Passage to India; Howards End; A Room with a View
Agatha Christie: Murder on the Orient Express; Death on the Nile; And Then There Were None
Arthur Conan Doyle: The Hound of the Baskervilles; A Study in Scarlet; The Sign of the Four
J. R. R. Tolkien/J.R.R. Tolkien: The Hobbit; The Lord of the Rings; The Silmarillion
C. S. Lewis/C.S. Lewis: The Lion, the Witch and the Wardrobe; The Screwtape Letters
George Bernard Shaw: Pygmalion; Major Barbara; Man and Superman; Saint Joan
Samuel Beckett: Waiting for Godot; Endgame; Krapp's Last Tape
John Milton: Paradise Lost; Paradise Regained; Samson Agonistes
Geoffrey Chaucer: The Canterbury Tales
Herman Melville: Moby-Dick; Billy Budd; Typee; Bartleby, the Scrivener
Mark Twain: The Adventures of Tom Sawyer; Adventures of Huckleberry Finn
Mark Twain: The Prince and the Pauper
Nathaniel Hawthorne: The Scarlet Letter; The House of the Seven Gables
Edgar Allan Poe: The Raven; The Fall of the House of Usher; The Tell-Tale Heart
Louisa May Alcott: Little Women; Little Men
Henry James: The Portrait of a Lady; The Turn of the Screw; Daisy Miller; The Ambassadors
Jack London: The Call of the Wild; White Fang; The Sea-Wolf; Martin Eden
F. Scott Fitzgerald: The Great Gatsby; Tender Is the Night; This Side of Paradise
Ernest Hemingway: The Old Man and the Sea; A Farewell to Arms; For Whom the Bell Tolls
Ernest Hemingway: The Sun Also Rises
John Steinbeck: The Grapes of Wrath; Of Mice and Men; East of Eden; Cannery Row
William Faulkner: The Sound and the Fury; As I Lay Dying; Absalom, Absalom!; Light in August
Harper Lee: To Kill a Mockingbird
J. D. Salinger/J.D. Salinger: The Catcher in the Rye; Franny and Zooey
Arthur Miller: Death of a Salesman; The Crucible; A View from the Bridge
Tennessee Williams: A Streetcar Named Desire; The Glass Menagerie; Cat on a Hot Tin Roof
Ray Bradbury: Fahrenheit 451; The Martian Chronicles
Homer: The Iliad; The Odyssey
Virgil: The Aeneid
Sophocles: Oedipus Rex; Antigone
Plato: The Republic; The Symposium
Dante Alighieri/Dante: The Divine Comedy
Miguel de Cervantes: Don Quixote
Johann Wolfgang von Goethe: Faust; The Sorrows of Young Werther
Franz Kafka: The Metamorphosis; The Trial; The Castle
Thomas Mann: Buddenbrooks; The Magic Mountain; Death in Venice; Doctor Faustus
Hermann Hesse: Steppenwolf; Siddhartha; The Glass Bead Game
Victor Hugo: Les Misérables; The Hunchback of Notre-Dame
Alexandre Dumas: The Three Musketeers; The Count of Monte Cristo; The Man in the Iron Mask
Jules Verne: Around the World in Eighty Days; Journey to the Center of the Earth
Jules Verne: Twenty Thousand Leagues Under the Seas; The Mysterious Island
Gustave Flaubert: Madame Bovary; Sentimental Education
Voltaire: Candide; Zadig
Moliere/Molière: Tartuffe; The Misanthrope; The Miser
Emile Zola/Émile Zola: Germinal; Nana
Marcel Proust: In Search of Lost Time; Swann's Way
Albert Camus: The Stranger; The Plague; The Fall
Jean-Paul Sartre: Nausea; No Exit; Being and Nothingness
Leo Tolstoy: War and Peace; Anna Karenina; The Death of Ivan Ilyich; Resurrection
Fyodor Dostoevsky/Fyodor Dostoyevsky: Crime and Punishment; The Idiot; Demons
Fyodor Dostoevsky/Fyodor Dostoyevsky: The Brothers Karamazov
Anton Chekhov: The Cherry Orchard; Three Sisters; Uncle Vanya; The Seagull
Nikolai Gogol: Dead Souls; The Overcoat; The Nose; The Government Inspector
Alexander Pushkin: Eugene Onegin; The Queen of Spades; Boris Godunov
Ivan Turgenev: Fathers and Sons; A Month in the Country
Mikhail Bulgakov: The Master and Margarita; Heart of a Dog
Boris Pasternak: Doctor Zhivago
Henrik Ibsen: A Doll's House; Peer Gynt; Hedda Gabler; The Wild Duck
Astrid Lindgren: Pippi Longstocking; Ronia, the Robber's Daughter
"""


AUTHORS = {title: cell(names) for names, titles in
           (row.split(": ", 1) for row in WORK_TABLE.strip().splitlines())
           for title in titles.split("; ")}


@task(list(AUTHORS), lookup=True)
def author(work):
    return AUTHORS[work]


PEOPLE_TABLE = """
composer: Johann Sebastian Bach, Ludwig van Beethoven, Johannes Brahms, Richard Wagner, Robert
    Schumann, Felix Mendelssohn, Richard Strauss, Georg Philipp Telemann, Wolfgang Amadeus
    Mozart, Joseph Haydn, Franz Schubert, Anton Bruckner, Johann Strauss, Arnold Schoenberg,
    Antonio Vivaldi, Giuseppe Verdi, Gioachino Rossini, Giacomo Puccini, Claudio Monteverdi,
    Gaetano Donizetti, Arcangelo Corelli, Claude Debussy, Maurice Ravel, Hector Berlioz, Georges
    Bizet, Erik Satie, Camille Saint-Saens, Gabriel Faure, Charles Gounod, Pyotr Ilyich
    Tchaikovsky, Igor Stravinsky, Dmitri Shostakovich, Modest Mussorgsky, Nikolai
    Rimsky-Korsakov, Sergei Rachmaninoff, Edvard Grieg, Jean Sibelius, Edward Elgar, Henry
    Purcell, Benjamin Britten, Gustav Holst, Antonin Dvorak, Bedrich Smetana, Leos Janacek

painter: Sandro Botticelli, Raphael, Titian, Caravaggio, Tintoretto, Giotto, Fra Angelico,
    Amedeo Modigliani, Canaletto, Rembrandt, Vincent van Gogh, Johannes Vermeer, Frans Hals,
    Hieronymus Bosch, Piet Mondrian, Claude Monet, Edouard Manet, Paul Cezanne, Paul Gauguin,
    Edgar Degas, Pierre-Auguste Renoir, Henri Matisse, Eugene Delacroix, Georges Seurat, Henri
    de Toulouse-Lautrec, Gustave Courbet, Nicolas Poussin, Pablo Picasso, Salvador Dali,
    Francisco Goya, Diego Velazquez, Joan Miro, Albrecht Durer, Caspar David Friedrich, Hans
    Holbein, Franz Marc, Rene Magritte, James Ensor, Gustav Klimt, Egon Schiele, Edvard Munch,
    Frida Kahlo, Diego Rivera, J. M. W. Turner, John Constable, Thomas Gainsborough, William
    Hogarth, Jackson Pollock, Edward Hopper, Georgia O'Keeffe, Grant Wood

writer: William Shakespeare, Charles Dickens, Jane Austen, George Orwell, Virginia Woolf, Thomas
    Hardy, Agatha Christie, Lord Byron, John Keats, John Milton, Robert Burns, Walter Scott,
    Robert Louis Stevenson, James Joyce, Oscar Wilde, Samuel Beckett, William Butler Yeats,
    Jonathan Swift, Victor Hugo, Honore de Balzac, Gustave Flaubert, Marcel Proust, Emile Zola,
    Moliere, Jules Verne, Alexandre Dumas, Stendhal, Charles Baudelaire, George Sand, Johann
    Wolfgang von Goethe, Friedrich Schiller, Thomas Mann, Heinrich Heine, Theodor Fontane,
    Bertolt Brecht, Leo Tolstoy, Fyodor Dostoevsky, Anton Chekhov, Alexander Pushkin, Ivan
    Turgenev, Boris Pasternak, Anna Akhmatova, Miguel de Cervantes, Lope de Vega, Federico
    Garcia Lorca, Dante Alighieri, Petrarch, Giovanni Boccaccio, Luigi Pirandello, Italo
    Calvino, Mark Twain, Ernest Hemingway, Edgar Allan Poe, Walt Whitman, Herman Melville, Emily
    Dickinson, William Faulkner, John Steinbeck, Henrik Ibsen, Knut Hamsun, Sigrid Undset, Hans
    Christian Andersen, Karen Blixen, August Strindberg, Selma Lagerlof, Astrid Lindgren,
    Gabriel Garcia Marquez, Pablo Neruda, Gabriela Mistral, Jorge Luis Borges, Julio Cortazar,
    Fernando Pessoa, Luis de Camoes, Yukio Mishima, Yasunari Kawabata, Matsuo Basho

scientist: Isaac Newton, Charles Darwin, Michael Faraday, Stephen Hawking, Rosalind Franklin,
    Edward Jenner, John Dalton, Edmond Halley, James Clerk Maxwell, Alexander Fleming, James
    Hutton, Galileo Galilei, Alessandro Volta, Enrico Fermi, Amedeo Avogadro, Luigi Galvani,
    Louis Pasteur, Antoine Lavoisier, Pierre Curie, Henri Becquerel, Andre-Marie Ampere,
    Charles-Augustin de Coulomb, Max Planck, Werner Heisenberg, Johannes Kepler, Robert Koch,
    Otto Hahn, Wilhelm Rontgen, Heinrich Hertz, Georg Ohm, Justus von Liebig, Erwin Schrodinger,
    Ludwig Boltzmann, Lise Meitner, Nicolaus Copernicus, Marie Curie, Niels Bohr, Tycho Brahe,
    Hans Christian Orsted, Carl Linnaeus, Anders Celsius, Svante Arrhenius, Christiaan Huygens,
    Antonie van Leeuwenhoek, Hendrik Lorentz, Dmitri Mendeleev, Ivan Pavlov, Edwin Hubble,
    Richard Feynman, Linus Pauling, Carl Sagan

philosopher: Socrates, Plato, Aristotle, Epicurus, Georg Wilhelm Friedrich Hegel, Friedrich
    Nietzsche, Martin Heidegger, Immanuel Kant, Jurgen Habermas, Rene Descartes, Auguste Comte,
    Michel Foucault, Henri Bergson, John Locke, Thomas Hobbes, John Stuart Mill, Jeremy Bentham,
    David Hume, Soren Kierkegaard, Baruch Spinoza, Confucius, Mencius

explorer: Vasco da Gama, Ferdinand Magellan, Bartolomeu Dias, Pedro Alvares Cabral, Marco Polo,
    Christopher Columbus, Amerigo Vespucci, Giovanni da Verrazzano, Roald Amundsen, Fridtjof
    Nansen, James Cook, Francis Drake, Robert Falcon Scott, Walter Raleigh, George Vancouver,
    David Livingstone, Mungo Park, Hernan Cortes, Francisco Pizarro, Juan Ponce de Leon, Vasco
    Nunez de Balboa, Jacques Cartier, Samuel de Champlain, Abel Tasman, Willem Barentsz

ruler: Louis XIV, Napoleon Bonaparte, Louis XVI, Hugh Capet, Peter the Great, Ivan the Terrible,
    Nicholas II, Henry VIII, Elizabeth I, Queen Victoria, Richard the Lionheart, Alfred the
    Great, Tutankhamun, Ramesses II, Hatshepsut, Akhenaten, Suleiman the Magnificent, Mehmed the
    Conqueror, Genghis Khan, Gustavus Adolphus, Gustav Vasa, Frederick the Great, Frederick
    Barbarossa, Augustus, Nero
"""

FIELDS = {" ".join(name.split()): field for field, names in
          (row.split(": ") for row in PEOPLE_TABLE.strip().split("\n\n"))
          for name in names.split(",")}


@task(list(FIELDS), lookup=True)
def person_field(person):
    return FIELDS[person]
