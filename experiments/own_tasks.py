"""Six small tasks as somebody could have them at work, to try and to measure training on own tasks.

    python -m experiments.own_tasks out/office/tasks --wordings 4
    python train.py --mode sft --init checkpoints/smollm2-135m --tasks out/office/tasks \\
           --steps 60 --batch-size 16 --eval-samples 30 --out out/office/t2l

None is in the built-in suite. Each file has 32 instances to train on, as a file of 40 has by
default, and 30 to test with; of its 20 wordings 1 to 16 are trained with, and the last 4 are always
held out, so that runs with different --wordings answer the same questions. What came out is in
docs/own-tasks.md. Reading order: the tasks, their wordings, the command.
"""
import random
from collections.abc import Callable
from pathlib import Path

from utils.cli import Parser, UserError, run
from utils.files import atomic_folder, dump_json

TRAIN, TEST, HELD_OUT = 32, 30, 4


# -------------------------------------------------------------------------------- the tasks

FIRST = """Ada Alan Amira Boris Carla Chen Dana Elif Emil Fatima Grace Hugo Ines Ivan Jonas Kofi
    Lena Luis Maya Nadia Omar Petra Quentin Rosa Samir Tara Ulf Vera Wanda Yusuf""".split()
LAST = """Abbott Becker Castro Dubois Evans Fischer Garcia Hansen Ito Jensen Keller Lopez Moreau
    Novak Okafor Petrov Quinn Rossi Silva Turing Unger Vargas Weber Young Zhang""".split()
PARTS = "cache disk network login printer mailer backup router scanner database".split()
TROUBLE = ["write failed", "too slow", "not found", "timed out", "is full", "was restarted",
           "has no space left", "lost its connection", "answered late", "refused the key"]
GOODS = "flour rice sugar screws paint gravel cable coffee salt cement soap paper".split()
WORDS = "annual report sales meeting notes budget plan team travel costs price list".split()
MAIL = {"billing": ["I was charged twice for {}.", "Where is the invoice for {}?",
                    "The amount on my bill for {} is wrong.", "Please refund what I paid for {}.",
                    "My card was debited too much for {}."],
        "shipping": ["The parcel with my {} never arrived.", "When will you deliver the {}?",
                     "The courier left my {} at a wrong address.", "Tracking of my {} has stopped.",
                     "The {} came in a broken box, two weeks late."],
        "account": ["I cannot log in to see my {}.", "Please reset my password for the {} page.",
                    "How do I change my e-mail address for {} news?",
                    "Delete my profile and its {} list.", "My name for the {} shop is locked."]}


def ticket_team(rng: random.Random) -> tuple[str, str]:
    team = rng.choice(list(MAIL))
    return rng.choice(MAIL[team]).format(rng.choice(GOODS)), team


def order_number(rng: random.Random) -> tuple[str, str]:
    number, name = f"{rng.randint(10000, 99999)}", rng.choice(FIRST)
    return rng.choice([f"Hello, {name} here, where is order {number}?",
                       f"Order {number} has not come yet. {name}",
                       f"I want to cancel {number}, please. Thanks, {name}",
                       f"Did {name} already pay for number {number} in May?"]), number


def salutation(rng: random.Random) -> tuple[str, str]:
    last, title = rng.choice(LAST), rng.choice(["Ms", "Mr", "Dr"])
    return f"{last}, {rng.choice(FIRST)} ({title})", f"Dear {title} {last},"


def log_line(rng: random.Random) -> tuple[str, str]:
    part, level = rng.choice(PARTS), rng.choice(["INFO", "WARN", "ERROR"])
    return (f"{rng.randint(10, 23)}:{rng.randint(10, 59)} {level} {part}: {rng.choice(TROUBLE)}",
            f"{part}/{level}")


def file_name(rng: random.Random) -> tuple[str, str]:
    words = [*rng.sample(WORDS, rng.randint(2, 3)), str(rng.randint(2019, 2035))]
    return " ".join(words).capitalize(), "_".join(words) + ".pdf"


def stock_line(rng: random.Random) -> tuple[str, str]:
    amount, unit, goods = rng.randint(2, 95), rng.choice(["kg", "m", "boxes"]), rng.choice(GOODS)
    return f"{amount} {unit} of {goods}", f"{goods}: {amount} {unit}"


TASKS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    f.__name__: f for f in (ticket_team, order_number, salutation, log_line, file_name, stock_line)}


# ----------------------------------------------------------------------------- their wordings

# Twenty each; the last four are held out.
WORDINGS = {"ticket_team": """
    Say which team the customer's message is for: billing, shipping or account.
    Read the customer's message and name the team in charge: billing, shipping or account.
    Route the support ticket to billing, shipping or account.
    Which department should answer this complaint, billing, shipping or account?
    Sort the message into one of three teams: billing, shipping, account.
    Answer billing, shipping or account, depending on what the customer's trouble is.
    A customer writes. Give the team that handles it: billing, shipping, account.
    Classify the request of a customer as billing, shipping or account.
    Decide who takes care of the ticket: billing, shipping or account.
    Write the name of the team that this support request belongs to.
    Tell whether the customer's problem is about billing, shipping or the account.
    Assign the incoming e-mail to the billing, shipping or account team.
    Label the ticket with its team: billing, shipping or account.
    For the customer's e-mail, output the responsible team.
    Find out what the customer complains about: billing, shipping or account.
    Choose the support team for this message.
    Give the support team, billing, shipping or account, that the message should go to.
    Who should deal with the customer's message? Answer with the team.
    Triage the customer's ticket into billing, shipping or account.
    Which of the teams billing, shipping and account has to reply to the customer?
    """, "order_number": """
    Write the order number that the customer mentions.
    Copy the number of the order from the message.
    Extract the order number.
    Which order is the message about? Give its number only.
    Find the five digits of the order in the text.
    Read the customer's message and return the order's number.
    Give nothing but the number of the order in question.
    Pull the order number out of the e-mail.
    Answer with the order number that stands in the message.
    Take the number of the order from what the customer wrote.
    Output the order id found in the message.
    Look for the order number and repeat it.
    State the number of the customer's order.
    From the customer's text, keep the order number alone.
    Name the number under which the customer ordered.
    Pick out the digits of the order number.
    Return only the order number in the customer's message.
    What is the number of the order that the customer writes about?
    Search the message for the order's number and write it.
    Write down the number of the order mentioned in the text.
    """, "salutation": """
    Write the salutation of a letter to this person.
    Begin a letter to the person with Dear, the title and the last name.
    Turn the address book entry into the first line of a letter.
    Greet the person formally, as a letter starts.
    Give the opening of a formal letter to the person named.
    How does a polite letter to this contact begin?
    Make a letter's salutation out of the name and title.
    Write Dear, the title, the family name and a comma.
    From the contact's entry, write the greeting for a business letter.
    Start an e-mail to this contact in a formal way.
    Address the person in a letter by title and last name.
    Write the formal greeting for the contact.
    Compose the line with which a letter to this person opens.
    Put the contact's name and title into a letter's greeting.
    Say Dear to the person, with title and surname.
    Produce the salutation line for the contact given.
    Write how a formal letter to this contact starts.
    Greet the contact as in a business letter, with title and surname.
    Give the salutation with Dear, title and surname.
    Write the first line of a polite letter to the person.
    """, "log_line": """
    From the log line give the component and the level, separated by a slash.
    Write which part of the system logged this, a slash, and the level.
    Shorten the log entry to component/LEVEL.
    Name the component of the log line and its level, as component/LEVEL.
    Reduce the log message to its source and severity with a slash between.
    Give source and severity of the log entry, joined by a slash.
    Answer with the program part, a slash, and INFO, WARN or ERROR.
    Read the log line and write its component, then a slash, then its level.
    Summarise the log line as component/LEVEL.
    Which component logged this, and at which level? Join them with a slash.
    Extract the component and the log level in the form component/LEVEL.
    Turn the log line into a tag of component and level.
    Tag the log entry with its component and its level.
    Write the log entry's component in front of its level, a slash between them.
    Condense a line of the log into the part concerned, slash, severity.
    Output component, slash, level for the log line.
    Give the log line's component and severity with a slash in the middle.
    Convert the log entry to the form component/LEVEL.
    State the component and the level of the log message, divided by a slash.
    Make a short tag, component/LEVEL, from the log line.
    """, "file_name": """
    Make a file name out of the title: lower case, underscores, ending in .pdf.
    Turn the document's title into the name of a PDF file.
    Write the title as a PDF file name with underscores.
    Under which name should the document with this title be saved as a PDF?
    Convert the title to a file name: small letters, underscores for spaces, .pdf.
    Give the PDF's file name for this title.
    Form a file name from the title, without spaces, and add .pdf.
    Name the PDF after its title, in lower case with underscores.
    Replace spaces in the title by underscores, lower the case and append .pdf.
    Derive the name of the PDF from the title of the document.
    Produce a file name for the titled document, with the ending .pdf.
    Save the title as a file: what is its PDF name?
    Write a lower-case file name with underscores for the PDF of that title.
    From the heading make a file name that ends in .pdf.
    Change the title into a valid name for a PDF file.
    Give a name with underscores and .pdf to the document of this title.
    Make the name of a PDF file from the document's title.
    Write the title in lower case with underscores and the ending .pdf.
    What should the PDF with this title be called, with underscores?
    Turn the title into a lower-case PDF file name.
    """, "stock_line": """
    Rewrite the quantity as a stock list has it: the item, a colon, the amount.
    Put the item first, then a colon, then how much of it.
    Turn the phrase into a line of the stock list.
    Write the goods, a colon, and the amount with its unit.
    Change the order: first the item, after a colon the quantity.
    Give the item and its quantity in the form item: amount unit.
    Make an inventory line of the quantity: item, colon, amount.
    Start with what it is, then a colon and how much there is.
    Convert the amount to an inventory entry that begins with the item.
    List the item, followed by a colon and its amount and unit.
    Format the quantity for the stock list, the goods in front.
    Write what is in stock, a colon, and the number with the unit.
    Express the quantity as item: number unit.
    Move the name of the goods to the front and put a colon after it.
    For the inventory, write the goods before their amount, with a colon.
    Note the amount as the warehouse does: item, colon, quantity.
    Write the quantity as an inventory line, the item first.
    State the item, a colon, then its amount and unit.
    Turn the amount into the form item: amount unit.
    Give the stock list's line for this quantity, the goods in front.
    """}


def wordings_of(name: str) -> list[str]:
    return [line.strip() for line in WORDINGS[name].strip().splitlines()]


def task_file(name: str, n_wordings: int) -> dict:
    """A task in the schema of Super-NaturalInstructions; no input stands there twice."""
    rng, rows = random.Random(name), {}
    while len(rows) < TRAIN + TEST:
        text, answer = TASKS[name](rng)
        rows.setdefault(text, {"input": text, "output": [answer]})
    lines = wordings_of(name)
    return {"Definition": lines[:1],
            "Descriptions": lines[:n_wordings] + lines[-HELD_OUT:],
            "Description Split": {"train": n_wordings, "test": HELD_OUT},
            "Split": {"train": TRAIN, "test": TEST}, "Instances": list(rows.values())}


# -------------------------------------------------------------------------------- the command

def main() -> None:
    parser = Parser("Write six small tasks of office work as task files.")
    parser.prog = "python -m experiments.own_tasks"
    parser.add_argument("folder", metavar="DIR", type=Path, help="where; a folder to be made")
    parser.add_argument("--wordings", type=int, default=4, metavar="N",
                        help="of each task to train with, 1 to 16")
    args = parser.parse_args()
    if not 1 <= args.wordings <= 16:
        raise UserError(f"--wordings {args.wordings}: expected 1 to 16")
    if args.folder.exists():
        raise UserError(f"{args.folder} exists; give a folder to be made")
    with atomic_folder(args.folder) as scratch:
        for name in TASKS:
            dump_json(scratch / f"{name}.json", task_file(name, args.wordings))
    print(f"{len(TASKS)} tasks with {args.wordings} wordings each written to {args.folder}; train "
          "on them: python train.py --mode sft --init checkpoints/smollm2-135m --tasks "
          f"{args.folder} --steps 60 --batch-size 16 --eval-samples {TEST}")


if __name__ == "__main__":
    run(main)
