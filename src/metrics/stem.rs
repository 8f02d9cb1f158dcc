//! The Porter stemmer, as ROUGE's users have it.
//!
//! M. F. Porter, "An algorithm for suffix stripping", Program 14(3), 1980: suffixes come off in five
//! steps. With what NLTK's `PorterStemmer` changes by default (its mode `NLTK_EXTENSIONS`), because
//! published ROUGE scores are made with that one; the changes are marked NLTK below.

/// NLTK: words that the rules would get wrong.
const IRREGULAR: [(&str, &str); 16] = [
    ("skies", "sky"),
    ("sky", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// A suffix and what replaces it.
type Rule = (&'static str, &'static str);

/// Step 1a: plurals.
const PLURALS: [Rule; 4] = [("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")];

/// Step 2: two suffixes become one.
const DOUBLE_SUFFIXES: [Rule; 20] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    // NLTK, after Porter's own later versions: the paper has "abli", "able".
    ("bli", "ble"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"), // NLTK
];

/// Step 3.
const ENDINGS: [Rule; 7] =
    [("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", "")];

/// Step 4: the suffixes that are left. A suffix comes before those that it ends with.
const LAST_SUFFIXES: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
];

/// The stem of a word in lower-case ASCII.
pub fn porter(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return (*stem).to_owned();
    }
    let mut word = word.to_owned();
    // Too short to have a suffix: Porter's later versions and NLTK.
    if word.len() > 2 {
        plural(&mut word);
        past_and_gerund(&mut word);
        final_y(&mut word);
        double_suffix(&mut word);
        replace(&mut word, &ENDINGS, |stem| measure(stem) > 0);
        last_suffix(&mut word);
        final_e(&mut word);
        final_ll(&mut word);
    }
    word
}

/// Step 1a.
fn plural(word: &mut String) {
    if word.len() == 4 && word.ends_with("ies") {
        word.pop(); // NLTK: dies → die, while flies → fli.
    } else {
        replace(word, &PLURALS, |_| true);
    }
}

/// Step 1b.
fn past_and_gerund(word: &mut String) {
    if word.ends_with("ied") {
        let removed = if word.len() == 4 { 1 } else { 2 }; // NLTK: died → die, spied → spi.
        word.truncate(word.len() - removed);
    } else if let Some(stem) = word.strip_suffix("eed") {
        if measure(stem) > 0 {
            word.pop();
        }
    } else if let Some(stem) = word.strip_suffix("ed").or_else(|| word.strip_suffix("ing"))
        && has_vowel(stem)
    {
        word.truncate(stem.len());
        mend(word);
    }
}

/// What step 1b leaves becomes a word again: hopp → hop, fil → file, conflat → conflate.
fn mend(stem: &mut String) {
    if ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end)) {
        stem.push('e');
    } else if ends_in_double_consonant(stem) {
        if !stem.ends_with(['l', 's', 'z']) {
            stem.pop();
        }
    } else if measure(stem) == 1 && ends_in_short_syllable(stem) {
        stem.push('e');
    }
}

/// Step 1c. NLTK: after a consonant that is not the first letter (cry → cri, enjoy stays), where the
/// paper asks for a vowel anywhere before.
fn final_y(word: &mut String) {
    replace(word, &[("y", "i")], |stem| stem.len() > 1 && ends_in_consonant(stem));
}

/// Step 2.
fn double_suffix(word: &mut String) {
    if let Some(stem) = word.strip_suffix("alli") {
        // NLTK: what "alli" → "al" leaves may have another suffix of this step.
        if measure(stem) > 0 {
            word.truncate(stem.len() + "al".len());
            double_suffix(word);
        }
    } else if word.ends_with("logi") {
        // NLTK: "logi" → "log", its l counted with the stem, so that theology is treated as archaeology is.
        if measure(&word[..word.len() - "ogi".len()]) > 0 {
            word.pop();
        }
    } else {
        replace(word, &DOUBLE_SUFFIXES, |stem| measure(stem) > 0);
    }
}

/// Step 4.
fn last_suffix(word: &mut String) {
    let Some(suffix) = LAST_SUFFIXES.iter().find(|suffix| word.ends_with(**suffix)) else { return };
    let stem = &word[..word.len() - suffix.len()];
    if measure(stem) > 1 && (*suffix != "ion" || stem.ends_with(['s', 't'])) {
        word.truncate(stem.len());
    }
}

/// Step 5a.
fn final_e(word: &mut String) {
    let Some(stem) = word.strip_suffix('e') else { return };
    let measure = measure(stem);
    if measure > 1 || measure == 1 && !ends_in_short_syllable(stem) {
        word.pop();
    }
}

/// Step 5b.
fn final_ll(word: &mut String) {
    if word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        word.pop();
    }
}

/// Applies the first rule whose suffix the word has, if the stem before it allows; no other rule is
/// tried if it does not.
fn replace(word: &mut String, rules: &[Rule], allows: impl Fn(&str) -> bool) {
    let Some((suffix, replacement)) = rules.iter().find(|(suffix, _)| word.ends_with(suffix)) else { return };
    let stem = word.len() - suffix.len();
    if allows(&word[..stem]) {
        word.truncate(stem);
        word.push_str(replacement);
    }
}

/// Whether each letter is a consonant: all but a, e, i, o, u, and y after a consonant.
fn consonants(word: &str) -> impl Iterator<Item = bool> {
    word.bytes().scan(false, |consonant, letter| {
        *consonant = match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => !*consonant,
            _ => true,
        };
        Some(*consonant)
    })
}

/// Porter's m: how often consonants follow vowels; 0 for "tree", 1 for "trouble", 2 for "private".
fn measure(word: &str) -> usize {
    consonants(word).zip(consonants(word).skip(1)).filter(|pair| *pair == (false, true)).count()
}

fn has_vowel(word: &str) -> bool {
    consonants(word).any(|consonant| !consonant)
}

fn ends_in_consonant(word: &str) -> bool {
    consonants(word).last() == Some(true)
}

/// Porter's *d.
fn ends_in_double_consonant(word: &str) -> bool {
    let mut letters = word.bytes().rev();
    letters.next() == letters.next() && ends_in_consonant(word)
}

/// Porter's *o: consonant, vowel, consonant but w, x, y. NLTK: or no more than a vowel and a consonant.
fn ends_in_short_syllable(word: &str) -> bool {
    let consonants: Vec<bool> = consonants(word).collect();
    match consonants[..] {
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        [false, true] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words and their stems by nltk 3.10's `PorterStemmer()`, at least one word for every step.
    const NLTK: &str = "
        caresses=caress ponies=poni dies=die flies=fli caress=caress cats=cat agreed=agre feed=feed
        plastered=plaster bled=bled motoring=motor sing=sing conflated=conflat troubled=troubl sized=size
        hopping=hop falling=fall hissing=hiss fizzed=fizz failing=fail filing=file spied=spi died=die tied=tie
        happy=happi sky=sky cry=cri enjoy=enjoy relational=relat rational=ration rationally=ration valency=valenc
        conformably=conform vietnamization=vietnam hopefully=hope hopefulness=hope theology=theolog geologic=geolog
        sensibility=sensibl triplicate=triplic formative=form electrical=electr goodness=good replacement=replac
        adoption=adopt region=region inference=infer rate=rate cease=ceas use=use eyeing=eye control=control
        controlling=control roll=roll skies=sky innings=inning proceed=proceed news=news yyyy=yyyi syzygies=syzygi
        generalizations=gener 42nds=42nd";

    #[test]
    fn stems_are_those_of_nltk() {
        for pair in NLTK.split_whitespace() {
            let (word, stem) = pair.split_once('=').unwrap();
            assert_eq!(porter(word), stem, "{word}");
        }
    }

    #[test]
    fn the_measure_counts_consonants_after_vowels_as_the_paper_does() {
        let examples = ["tr ee tree y by", "trouble oats trees ivy", "troubles private oaten orrery"];
        for (m, words) in examples.iter().enumerate() {
            words.split(' ').for_each(|word| assert_eq!(measure(word), m, "{word}"));
        }
    }
}
