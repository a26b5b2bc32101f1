"""The real default models, SmolLM2-135M-Instruct and all-MiniLM-L6-v2, and the committed T2L.

Skipped where they are neither cached nor to be fetched.
"""
import json
import re
import shutil

import pytest
import torch
from conftest import GOLDEN, ROOT, command

import t2l as t2l_module
from encoder import embed, encoder_for, load_encoder
from mistral import generate, generate_ids, load_model, load_tokenizer
from t2l import CHECKPOINT, generate_lora, load_t2l
from utils import download
from utils.cli import UserError, check_description

SMOLLM2 = json.loads((GOLDEN / "smollm2.json").read_text())       # transformers' own GGUF reader
QUESTIONS = [row["question"] for row in SMOLLM2["rows"]]


def test_default_model_is_what_transformers_reads_from_the_gguf_file(default_models):
    """Weights of one layer (q and k un-permuted), ids of ten prompts, their greedy answers."""
    model = load_model(default_models[0], torch.float32)
    for name, column in SMOLLM2["weights"].items():
        ours, theirs = model.state_dict()[name][:80, 17], torch.tensor(column)
        torch.testing.assert_close(ours, theirs, atol=0, rtol=2 ** -8)            # bf16's rounding
        if "q_proj" in name:                                   # negative control: one head permuted
            assert (ours[:64].view(2, 32).T.flatten() - theirs[:64]).abs().max() > 0.05
    tokenizer = load_tokenizer(default_models[0])
    prompts = [tokenizer.prompt(question) for question in QUESTIONS]
    assert prompts == [row["ids"] for row in SMOLLM2["rows"]]
    made = generate_ids(model, prompts, None, max_new_tokens=12, stop=(2,))
    assert made == [[t for t in row["answer"] if t != 2] for row in SMOLLM2["rows"]]


@pytest.mark.slow
def test_live_default_model_answers_like_transformers(default_models):
    """Ten prompts: the same ids in, the same greedy tokens out, in fp32."""
    transformers = pytest.importorskip("transformers")
    folder = default_models[0]
    model, tokenizer = load_model(folder, torch.float32), load_tokenizer(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    their_tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"))
    their_tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{% endfor %}{{ '<|im_start|>assistant\n' }}")
    prompts = [tokenizer.prompt(q) for q in QUESTIONS]
    made = generate_ids(model, prompts, None, max_new_tokens=12, stop=(2,))
    for question, prompt, new in zip(QUESTIONS, prompts, made):
        text = their_tokenizer.apply_chat_template([{"role": "user", "content": question}],
                                                   tokenize=False)
        assert prompt == their_tokenizer(text, add_special_tokens=False)["input_ids"]
        out = theirs.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False,
                              pad_token_id=0)[0, len(prompt):].tolist()
        assert new == out[:out.index(2)] if 2 in out else new == out


def test_default_model_knows_paris(default_models):
    model, tokenizer = (load(default_models[0]) for load in
                        (load_model, load_tokenizer))
    assert "Paris" in generate(model, tokenizer, QUESTIONS[:1])[0]


def test_live_apply_chat_template_gives_our_prompts(default_models, tmp_path):
    """With what the default model's folder gets for transformers."""
    transformers = pytest.importorskip("transformers")
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(default_models[0] / name, tmp_path)
    download.add_for_transformers(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert (theirs.eos_token_id, theirs.bos_token_id) == (tokenizer.end, 1)
    for question in QUESTIONS:
        ids = theirs.apply_chat_template([{"role": "user", "content": question}],
                                         add_generation_prompt=True)["input_ids"]
        assert ids == tokenizer.prompt(question)


@pytest.mark.slow
def test_live_peft_and_pipeline_answer_as_t2l_does(default_models, tmp_path):
    """t2l.py's two folders in others' hands: adapter/ in PEFT, merged/ in a pipeline."""
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    text = "apple, dog, chair, green"
    done = command("t2l", "Write the animal of the list in round brackets.", "--prompt", text,
                   "--out", tmp_path / "adapter", "--merged", tmp_path / "merged")
    ours = re.search("adapted: (.*)", done.stdout)[1]
    chat, folder = [{"role": "user", "content": text}], default_models[0]

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter")
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt",
                                           return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=32)[0, prompt["input_ids"].shape[1]:]
    assert tokenizer.decode(answer, skip_special_tokens=True) == ours == "(dog)"
    with model.disable_adapter():                                    # negative control
        answer = model.generate(**prompt, max_new_tokens=32)[0, prompt["input_ids"].shape[1]:]
        assert tokenizer.decode(answer, skip_special_tokens=True) != ours

    pipe = transformers.pipeline("text-generation", model=str(tmp_path / "merged"))
    assert pipe(chat, max_new_tokens=32)[0]["generated_text"][-1]["content"] == ours


SENTENCES = [f"{verb} the {thing} of the {place}."
             for verb in ("Give", "Write down", "Count", "Hide")
             for thing in ("last letter", "capital") for place in ("word", "country in Europe")]
SENTENCES += ["a", "Réponds en français.", "2 + 2 = 4", "WHAT IS THIS?"]


def test_live_minilm_equals_sentence_transformers(default_models):
    package = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer import modules
    folder = default_models[1]
    word = modules.Transformer(str(folder))
    pool = modules.Pooling(384, pooling_mode="mean")
    theirs = package.SentenceTransformer(modules=[word, pool], device="cpu")
    ours = load_encoder(folder).embed(SENTENCES)
    cosine = torch.cosine_similarity(ours, torch.tensor(theirs.encode(SENTENCES)))
    assert len(SENTENCES) == 20 and cosine.min() > 0.9999


def test_the_committed_checkpoint_reads_its_description(default_models):
    """Four descriptions for one input: nothing else can tell which answer is asked for."""
    model, tokenizer = load_model(), load_tokenizer()
    t2l = load_t2l()
    lines = ["Write the word in capital letters.", "Put the word in double quotes.",
             "Give the first letter of the word, in lower case.",
             "Write the word followed by an exclamation mark."]
    answers = generate(model, tokenizer, ["hot"] * 4, generate_lora(t2l, lines))
    assert answers == ["HOT", '"hot"', "h", "hot!"]
    assert f'python t2l.py "{lines[0]}" --prompt hot' in t2l_module.__doc__
    with pytest.raises(UserError, match=lines[0]):                # the example of the message
        check_description("", 0, 256)
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 12_000_000


def test_the_committed_checkpoint_warns_of_what_is_off_topic(default_models, suite):
    """Of at most 10 % of the unseen tasks' held-out wordings, of at least 9 of 10 off-topic
    sentences; all of it: python -m experiments.distance."""
    t2l = load_t2l()
    known, encoder = t2l.neighbours, encoder_for(t2l.cfg)
    off_topic = (ROOT / "experiments" / "off_topic.txt").read_text().splitlines()
    for texts, low, high in (([task.held_out[0] for task in suite.unseen], 0, 0.1),
                             ([task.held_out[1] for task in suite.train[::5]], 0, 0.1),
                             (off_topic, 0.9, 1)):
        _, similarity = known.nearest(embed(encoder, texts))
        assert low <= sum(s < known.threshold for s in similarity) / len(texts) <= high
    assert len(off_topic) >= 40
