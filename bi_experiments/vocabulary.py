"""Ordinary English words, about a thousand: what prompts and the demo model's tokenizer are made of."""

_TEXT = """
a about above across act action active add after again against age ago agree air all allow almost alone along already
also always am among amount an and animal another answer any anyone appear apple are area arm army around arrive art
as ask at autumn away baby back bad bag ball bank base battle be bear beautiful because become bed been before begin
behind believe bell below bench best better between big bird black blue board boat body bone book border born both
bottom box boy branch brave bread break bridge brief bright bring broad brother brown build building burn business
busy but buy by call calm came camp can candle captain car card care carry case cat catch cause cave center certain
chair chance change charge child children choice choose church circle city class clean clear climb clock close cloth
cloud coast coat cold collect color come common company complete compute computer consider contain continue cook cool
copper copy corn corner correct cost could count country course cover create cross crowd cry cup current cut dance
danger dark data daughter day dead deal dear death decide deep degree depend describe desert design desk detail
develop did die differ different difficult dinner direct discover distance do doctor does dog done door double doubt
down draw dream dress drink drive drop dry during dust each ear early earth ease east easy eat edge effect egg eight
either electric else empire empty end enemy energy engine enjoy enough enter equal even evening ever every everyone
exact example except expect experience explain eye face fact fair fall family famous far farm farmer fast father fear
feel feet fell felt few field fight figure fill final find fine finger finish fire first fish five flat floor flow
flower fly follow food foot for force forest forget form forward found four free fresh friend from front fruit full
game garden gate gather gave general gentle get giant girl give glad glass go gold gone good got govern grain grand
grass gray great green grew ground group grow guard guess guide had hair half hall hand happen happy harbor hard has
hat have he head hear heard heart heat heavy held help her here hide high hill him his history hit hold hole home hope
horse hot hour house how huge human hundred hunt hurry ice idea if imagine important in inch include indeed inside
instead interest into invent iron is island it its job join journey judge jump just keep kept key kill kind king
kitchen knew know lady lake lamp land language large last late laugh law lay lead leader leaf learn least leave left
leg length less let letter level library lie life lift light like line lion list listen little live local lone long
look lose lost lot loud love low machine made magic main make man many map march mark market master match matter may
me mean measure meat meet member memory men message metal method middle might mile milk mill mind minute mirror miss
model modern moment money month moon more morning most mother mountain mouth move much music must my name nation
nature near necessary neck need nest never new news next night nine no noble noise none noon nor north nose not note
nothing notice noun now number object observe ocean of off offer office often oil old on once one only open or orange
order ordinary other our out outside over own page paint pair paper parent part party pass past path pattern pay peace
people perhaps period person picture piece pilot place plain plan planet plant play please point poor position
possible pound power practice prepare present press pretty prince print probable problem process produce promise proof
proper protect prove provide public pull push put queen question quick quiet quite race rain raise ran range rather
reach read ready real reason receive record red region remain remember repeat report rest result return rich ride
right ring rise river road rock roll roof room root rope rose round row royal rule run sad safe said sail salt same
sand sat save saw say scale school science sea search season seat second secret section see seed seem self sell send
sense sent sentence separate serve set settle seven several shade shadow shape share sharp she sheep shelf shell shine
ship shoe shop shore short should shoulder shout show side sign silence silent silver similar simple since sing sister
sit six size skill skin sky sleep slow small smell smile smoke snow so soft soil soldier some someone son song soon
sort sound south space speak special speech speed spell spend spoke spot spread spring square stable stand star start
state station stay steam steel step still stone stood stop store storm story strange stranger stream street strong
student study subject such sudden sugar summer sun supper support sure surface surprise sweet swim system table tail
take tale talk tall teach teacher team tell temple ten term test than thank that the their them then there these they
thick thin thing think third this those though thought thousand thread three through throw thus tide time tiny to
today together told tomorrow tone too took tool top total touch toward tower town trade train travel treasure tree
triangle trip trouble true trust truth try turn twelve twenty two type under understand unit until up upon us use
usual valley value vary very view village visit voice wait walk wall want war warm was wash watch water wave way we
weak wealth weather week weight well went were west what wheel when where whether which while whisper white who whole
whose why wide wife wild will win wind window wing winter wise wish with within without woman women wonder wood word
work world would write written wrong yard year yellow yes yet you young your
"""

WORDS = tuple(_TEXT.split())
