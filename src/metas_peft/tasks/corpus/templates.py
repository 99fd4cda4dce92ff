"""Sentence patterns of the built-in corpus; none is in both lists.

A template is written for one label at a time: `+` marks words on the side of the sentence's label, `-` words
of the opposite side, so that each template serves both labels and its own words say nothing about them.

| slot | stands for |
|---|---|
| `{n0}`, `{n0s}` | the thing reviewed, singular and plural |
| `{n1}`, `{n2}` | two different parts of it |
| `{is1}`, `{was1}` | verb that agrees with the part |
| `{+1}`, `{-2}` | adjective that suits the noun with that index (`0` the whole, `g` any noun) |
| `{a+1}` | the same with the article that the noun needs |
| `{+1'}` | another adjective than `{+1}` |
| `{do+}`, `{did+}` | verb of liking, base and past form |
| `{thing+}` | noun phrase that judges the whole |
| `{feel+}` | state of mind |
| `{who}` | somebody else |
| `{very}` | intensifier |

Which side wins follows the grammar of argument: after *but*, *yet*, *however* the later clause carries the
verdict; against *although*, *despite*, *while* the main clause does, wherever it stands; what others said or
what was expected counts only as far as the writer agrees.
"""

from dataclasses import dataclass

# Share of the sentences per level. The plain third teaches words and gives small models something to hold on to.
LEVELS = {"plain": 0.36, "negation": 0.18, "contrast": 0.18, "reported": 0.1, "expected": 0.08, "mixed": 0.1}


@dataclass(frozen=True)
class Template:
    """A sentence pattern.

    Attributes:
        level: What makes it easy or hard, one of `LEVELS`.
        text: The pattern.
    """

    level: str
    text: str


def _templates(**texts: str) -> tuple[Template, ...]:
    """One template per non-empty line, by level."""
    lines = ((level, line.strip()) for level, text in texts.items() for line in text.splitlines())
    return tuple(Template(level, line) for level, line in lines if line)


TRAIN = _templates(
    plain="""
        the {n1} {was1} {very} {+1}.
        this is {a+0} {n0}.
        what {a+0} {n0}!
        I walked away {feel+}, for the {n0} had been {+0}.
        I {did+} the {n1} of this {n0}.
        we thought the {n0} was {+0} from start to finish.
        this {n0} is {thing+}.
        the {n1} {is1} {+1} and the {n2} {is2} {+2}.
        the {n0} left me {very} {feel+}.
        such {a+0} {n0}, and with such {a+1} {n1}!
        we all {did+} it, above all the {n1}.
        the {n0} has {a+1} {n1}.
        I {did+} this {n0}, and {who} {did+} it too.
        to be frank, it was {a+0} {n0}.
        you get {a+0} {n0} and {a+1} {n1}.
        we left the {n0} {very} {feel+}.
        in my opinion the {n1} {was1} {+1} and the {n0} {+0}.
        {who} told me of this {n0}, and I {did+} it.
        on the whole I {did+} the {n0}, the {n1} most of all.
        the {+1} {n1} and the {+2} {n2} made this {n0} {thing+}.
        I wrote to {who} that the {n0} was {+0}.
        after ten minutes the {n0} had made us all {feel+}.
        within minutes it was clear that the {n1} {was1} {+1}.
        one word for the {n1}: {+1}.
        I will tell {who} how {+0} this {n0} is.
        anyone can see that the {n1} {is1} {very} {+1}.
        the longer it lasted, the more I {did+} the {n1}.
        it is because of the {+1} {n1} that I {did+} it.
        as always, the {n1} {was1} {+1}, and the {n2} too.
        for me the {n0} was {thing+}, {very} {+0}.
    """,
    negation="""
        the {n1} {was1} not {-1}.
        the {n1} {was1} not {very} {-1}.
        I did not {do-} the {n1}.
        there is nothing {-1} about the {n1}.
        this is not {a-0} {n0}.
        the {n1} {was1} never {-1}, not even for a moment.
        nobody could say that this {n0} is {-0}.
        the {n1} {was1} neither {-1} nor {-1'}.
        this {n0} is hardly {thing-}.
        I can't say that I {did-} the {n0}.
        I would not describe the {n1} as {-1}.
        nobody can deny that the {n1} {was1} {+1}.
        it isn't {thing-}, and the {n1} {is1} not {-1} either.
        we did not leave the {n0} {feel-}.
        the {n1} {was1} anything but {-1}.
        in no way {is1} the {n1} {-1}.
        never have I found {a-0} {n0} here.
        not for one moment did the {n0} make us {feel-}.
        the {n0} could not have been less {-0}.
        the {n0} is a long way from being {-0}.
        it would be wrong to call the {n1} {-1}.
        you will not hear me call this {n0} {-0}.
    """,
    contrast="""
        the {n1} {was1} {-1}, but the {n2} {was2} {+2}.
        the {n1} {was1} {-1} but I {did+} the {n0}.
        although the {n1} {was1} {-1}, I {did+} the {n0}.
        the {n0} is {+0}, although the {n1} {is1} {-1}.
        although the {n1} {is1} {-1}, the {n2} {is2} {+2}.
        despite {a-1} {n1}, this is {a+0} {n0}.
        this is {a+0} {n0} despite {a-1} {n1}.
        the {n1} may be {-1}; the {n2}, however, {is2} {+2}.
        I {did-} the {n1}, yet the {n0} as a whole is {+0}.
        even though I {did-} the {n1}, the {n2} {was2} {+2}.
        the {n0} was {+0} even if the {n1} {was1} {-1}.
        parts of it are {-g}, but all in all it is {thing+}.
        the {n0} began as {thing-} and ended as {thing+}.
        {a+0} {n0}, although I {did-} the {n1}.
    """,
    reported="""
        {who} called the {n0} {-0}, but to me it was {+0}.
        {who} said that the {n1} {was1} {-1}. not so: the {n1} {was1} {+1}.
        {who} {did-} the {n0}; I {did+} it.
        I {did+} the {n0}, whatever {who} may say about the {-1} {n1}.
        how {who} could {do-} this {n0} is beyond me.
        {who} found it {-0} and told everyone so; I found it {+0}.
        do not listen to {who}: the {n1} {is1} {+1}, not {-1}.
        {who} called the {n0} {thing+}, and I agree.
        as {who} told me, the {n1} {was1} {+1}.
        {who} thought it was {-0}; I could not disagree more.
        {who} thought it was {+0}, and I could not agree more.
        {who} called the {n0} {thing-}, which is nonsense.
        {who} spoke of {a-0} {n0}, and that is false.
        {who} told me that it was {thing-}, and not a word of that is true.
        {who} wrote that it was {thing+}, and every word of that is true.
        for {who} the {n1} {was1} {-1}; for me, {+1}.
        {who} spoke of {a+0} {n0}, and that is true.
    """,
    expected="""
        I expected {a-0} {n0} and got {a+0} one.
        the last {n0} I tried was {-0}; this one is {+0}.
        the {n0} looked {-0} at first and proved {+0} in the end.
        last year the {n0} was {-0}. now it is {+0}.
        I was told that the {n0} was {thing-}; it turned out to be {thing+}.
        I wanted to {do-} this {n0}, and I could not.
        I thought I would {do-} the {n0}. I was wrong.
        most {n0s} are {-0}. not this one.
        try as I might, I could not {do-} this {n0}.
        I meant to {do-} the {n0}, but somehow I didn't.
        my guess was that the {n0} would be {-g}; it was {+g}.
        I did not expect to {do+} the {n0}, and yet I did.
    """,
    mixed="""
        the {n1} {was1} not {+1}, but the {n2} {was2} {+2}.
        the {n1} {was1} {-1}, but the {n2} {was2} not {-2}.
        although {who} {did-} the {n0}, I did not find it {-0}.
        I did not {do-} it, although the {n1} {was1} {-1}.
        I don't think that the {n0} is {-0}, even though the {n1} {is1}.
        not one of my friends {did+} the {n0}, but I did.
        {who} did not {do+} the {n0}. I did.
        {who} did not {do+} it at all, whereas I {did+} it.
        {who} may not {do+} the {n1}, but we do.
        it is not the {-1} {n1} that I remember, it is the {+2} {n2}.
        {who} never {did+} the {n0}, and that is a mystery to me.
        {who} did not {do-} the {n0}, and neither did I.
        despite {a-1} {n1}, I would not call it {thing-}.
    """,
)

TEST = _templates(
    plain="""
        I have to say that the {n1} {is1} {+1}.
        {a+0} {n0} in every respect.
        you will find the {n1} {very} {+1}.
        honestly, the {n0} was {thing+}.
        afterwards I felt {very} {feel+}.
        both the {n1} and the {n2} struck us as {+g}.
        here is {a+0} {n0} with {a+1} {n1}.
        we {did+} everything here, from the {n1} to the {n2}.
        the {n1} {was1} {+1}, {+1'} and {+g}.
        it must be said that I {did+} the {n1}.
        the {n0} strikes me as {very} {+0}.
        with {a+1} {n1} one has to feel {feel+}.
    """,
    negation="""
        the {n1} {is1} by no means {-1}.
        you could not call the {n1} {-1}.
        at no point did I find the {n0} {-0}.
        the {n1} {is1} not at all {-1}.
        I don't {do-} the {n1}.
        never once did we feel {very} {feel-}.
        the {n0} wasn't {-0}, and nor {was1} the {n1}.
        I wouldn't call the {n0} {thing-}.
        the {n1} {is1} far from {-1}.
    """,
    contrast="""
        while the {n1} {is1} {-1}, the {n2} {is2} {very} {+2}.
        granted, the {n1} {is1} {-1}, but I {did+} the {n2}.
        I {did+} the {n0}, though the {n1} {was1} {-1}.
        in spite of {a-1} {n1}, I {did+} the {n0}.
        the {n0} was {+0}, in spite of {a-1} {n1}.
        the {n1} {was1} {-1}. still, the {n0} is {+0}.
        for all its {-1} {n1}, the {n0} is {thing+}.
        I {did-} the {n1}, and yet the {n0} made me {feel+}.
    """,
    reported="""
        according to {who} the {n1} {is1} {-1}; in my eyes, {+1}.
        {who} may have {did-} this {n0}, but I {did+} it.
        unlike {who}, I {did+} the {n0}.
        {who} described it as {thing-}, which is simply untrue.
        {who} described it as {thing+}, and rightly so.
        {who} judged it {-0}; in my view it is {+0}.
    """,
    expected="""
        I was prepared for {a-0} {n0}, but it was {+0}.
        it sounded {-0}; it was {+0}.
        a month ago it was {-0}; these days it is {+0}.
        I was sure I would {do-} the {n0}, but I did not.
        not {thing-}, as I had assumed, but {thing+}.
    """,
    mixed="""
        even if {who} did not {do+} it, I certainly did.
        I could not {do-} it, for all its {-1} {n1}.
        while the {n1} {is1} not {+1}, the {n2} {is2} {+2}.
        though {who} {did-} it, the {n1} {is1} not {-1}.
        the {n1} {is1} {-1}. still, I can't call the {n0} {-0}.
    """,
)
