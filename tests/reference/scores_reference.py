#!/usr/bin/env python3
"""The scores that scikit-learn, seqeval and sacreBLEU give: what Orrery's tests compare with.

usage: scores_reference.py write|check [DIRECTORY]

write   makes DIRECTORY/scores/scores.json (README.md there describes it)
check   computes it again and compares

DIRECTORY is by default the folder `golden` beside this file's folder.
"""
import json
import random
import re
import sys
import warnings
from pathlib import Path

import sacrebleu
import seqeval.metrics
import sklearn.metrics

SCORES = ("precision", "recall", "f1-score", "support")


def row(scores):
    return [scores[key] for key in SCORES]


def table(text):
    """Supports as integers, as seqeval writes them: some versions of scikit-learn write some as 1.0."""
    return re.sub(r"[ 0-9]{7}\.0$", lambda number: f"{int(float(number[0])):>9}", text, flags=re.MULTILINE)


# Classes.

def class_case(names, truth, predicted):
    present = sorted(set(truth) | set(predicted))
    options = {"labels": present, "target_names": [names[c] for c in present], "zero_division": 0}
    report = sklearn.metrics.classification_report(truth, predicted, output_dict=True, **options)
    return {
        "names": names, "truth": truth, "predicted": predicted,
        "accuracy": sklearn.metrics.accuracy_score(truth, predicted),
        "classes": {names[c]: row(report[names[c]]) for c in present},
        "macro": row(report["macro avg"]), "weighted": row(report["weighted avg"]),
        "table": {digits: table(sklearn.metrics.classification_report(truth, predicted, digits=digits, **options))
                  for digits in (2, 4)},
    }


def class_cases(rng):
    yield class_case(["a", "b"], [0], [0])
    yield class_case(["a", "b"], [0], [1])
    yield class_case(["world", "sports", "business", "science/technology"], [0, 1, 2, 2, 0], [0, 2, 2, 2, 1])
    yield class_case(["never", "true only", "predicted only", "wéird näme of some length"],
                     [1, 1, 3, 3, 3], [2, 3, 3, 3, 3])
    for classes in (2, 3, 7, 20):
        for count in (1, 10, 1000):
            truth = [rng.randrange(classes) for _ in range(count)]
            predicted = [t if rng.random() < 0.7 else min(rng.randrange(classes), rng.randrange(classes)) for t in truth]
            yield class_case([str(c) for c in range(classes)], truth, predicted)


# Entities.

def entity_case(tags, truth, predicted):
    names = [[tags[t] for t in sequence] for sequence in truth], [[tags[t] for t in sequence] for sequence in predicted]
    report = seqeval.metrics.classification_report(*names, output_dict=True, zero_division=0)
    return {
        "tags": tags, "truth": truth, "predicted": predicted,
        "accuracy": seqeval.metrics.accuracy_score(*names),
        "types": {key: row(report[key]) for key in report if not key.endswith(" avg")},
        "micro": row(report["micro avg"]), "macro": row(report["macro avg"]), "weighted": row(report["weighted avg"]),
        "table": {digits: seqeval.metrics.classification_report(*names, digits=digits, zero_division=0)
                  for digits in (2, 4)},
    }


def entity_cases(rng):
    iob = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-creative-work", "I-creative-work"]
    yield entity_case(iob, [[1, 2, 0, 3]], [[1, 2, 0, 3]])
    yield entity_case(iob, [[0, 2, 2, 4, 0], [2, 1, 2]], [[0, 1, 2, 3, 0], [2, 2, 2]])      # I- without B-
    yield entity_case(iob, [[1, 2], [2, 2]], [[1, 2], [1, 2]])      # not across the end of a sequence
    yield entity_case(iob, [[1, 4, 2, 2]], [[1, 3, 2, 1]])          # another type within
    yield entity_case(iob, [[0, 0]], [[3, 0]])                      # none is true
    yield entity_case(iob, [[3, 0]], [[0, 0]])                      # none is predicted
    yield entity_case(iob, [[5, 6, 6, 0], [], [1]], [[5, 6, 0, 0], [], [1]])
    bioes = iob + ["E-PER", "S-PER", "E-LOC", "S-LOC", "B-ÄÖ", "I-ÄÖ"]
    for tags in (iob, iob[1:5] + iob[:1], bioes):
        for noise in (0.05, 0.3, 1.0):
            truth = [[rng.randrange(len(tags)) for _ in range(rng.randrange(1, 40))] for _ in range(30)]
            predicted = [[rng.randrange(len(tags)) if rng.random() < noise else t for t in sequence] for sequence in truth]
            yield entity_case(tags, truth, predicted)


# Texts.

def text_case(hypotheses, references):
    bleu = sacrebleu.corpus_bleu(hypotheses, [references])
    return {
        "hypotheses": hypotheses, "references": references,
        "bleu": bleu.score, "precisions": bleu.precisions, "brevity": bleu.bp,
        "words": bleu.sys_len, "reference_words": bleu.ref_len,
        "chrf": sacrebleu.corpus_chrf(hypotheses, [references]).score,
        "exact": sum(h == r for h, r in zip(hypotheses, references)) / len(hypotheses),
    }


PIECES = ["the", "cat", "sat", "on", "a", "mat", "Haus", "größer", "naïve", "日本", "語", "😀", "1,000.5", "3.14", "U.S.", "x-y",
          "5-6", "it's", "(so)", "\"quoted\"", "&quot;", "&amp;", "&lt;b&gt;", "&amp;lt;", "<skipped>", "end.", "end,", "..", ",",
          "...a", ".5", "5.", "\u00a0", "\u3000", "a\u2003b", "a/b", "$5", "100%", "a_b", "[x]", "~", "`", "é,", "é.é", "-", "--",
          "\n", "-\n", "a-\nb", "\t", "\x1c", "\u0085", "e\u0301", "٣,٤"]


def text_cases(rng):
    yield text_case(["the cat sat on the mat"], ["the cat sat on the mat"])
    yield text_case(["the cat sat on the mat", "a dog"], ["the cat is on the mat", "a dog barks, loudly."])
    yield text_case([""], ["something"])
    yield text_case(["something"], [""])
    yield text_case([""], [""])
    yield text_case(["", "the cat sat on the mat."], ["x", "the cat sat on a mat."])
    yield text_case(["abc"], ["xyz"])
    yield text_case(["a b"], ["a b"])                       # no n-grams of three
    yield text_case(["a b c d e"], ["a x c y e"])           # no n-gram of two is right
    yield text_case(["a a a a a a"], ["a a"])               # each at most as often
    yield text_case(["Hello,world. 3.14,15 (yes)! 5-6 x-y."], ["Hello , world . 3.14,15 ( yes ) ! 5 - 6 x-y ."])
    yield text_case(["die Größe 日本語 😀."], ["die Größen 日本 😀 ."])
    for count in (1, 3, 40):
        for noise in (0.1, 0.5):
            references, hypotheses = [], []
            for _ in range(count):
                words = [rng.choice(PIECES) for _ in range(rng.randrange(1, 30))]
                gap = " " if rng.random() < 0.8 else ""
                references.append(gap.join(words))
                hypotheses.append(gap.join(w if rng.random() > noise else rng.choice(PIECES) for w in words
                                           if rng.random() > noise / 4))
            yield text_case(hypotheses, references)


def compute():
    rng = random.Random(17)
    return {"classes": list(class_cases(rng)), "entities": list(entity_cases(rng)), "texts": list(text_cases(rng))}


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in ("write", "check"):
        sys.exit(__doc__)
    warnings.simplefilter("ignore")
    golden = Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).resolve().parent.parent / "golden"
    path = golden / "scores" / "scores.json"
    text = json.dumps(compute(), ensure_ascii=False, separators=(",", ":"), default=lambda number: number.item()) + "\n"
    if sys.argv[1] == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        sys.exit(f"{path} is not what is computed now")
    else:
        print(f"{path}: as computed now")


if __name__ == "__main__":
    main()
