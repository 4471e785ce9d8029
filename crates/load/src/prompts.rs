//! Prompts of a known length that begin differently, so that nothing a server has kept of one helps with another, or
//! alike, so that it does.

use crate::ask::Message;

/// What is asked: words, each of which is one token to most models. The template's own tokens come on top.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Prompts {
    /// Words that each prompt has for itself.
    #[arg(long, value_name = "N", default_value_t = Self::SHORT.words)]
    pub words: u32,
    /// Words before them that all prompts have in common.
    #[arg(long, value_name = "N", default_value_t = Self::SHORT.shared)]
    pub shared: u32,
    /// Number of the first prompt; the next one has the next. Other numbers are other words, almost from the first on.
    #[arg(long, value_name = "NUMBER", default_value_t = Self::SHORT.first)]
    pub first: u32,
    /// Number of the words in common.
    #[arg(long, value_name = "NUMBER", default_value_t = Self::SHORT.common)]
    pub common: u32,
    /// Ask for a text of 100 words to be written again with a change, after so many words.
    #[arg(long)]
    pub edit: bool,
}

/// A text to be written again.
const TEXT: &str = "The ferry to the island leaves at seven in the morning and takes two hours. There is a small kitchen on \
    board that sells tea, bread and warm soup. In winter the sea is rough, and most people stay inside until the harbour \
    comes into sight. A guide waits at the pier and takes visitors up to the old lighthouse, where the keeper shows them \
    the lamp and the log books. The last ferry back leaves at five. Whoever misses it can sleep in the school, which has \
    ten beds, or ask the keeper for a room.";

/// Each is one token of the usual vocabularies, at the beginning of a text as well as behind a space.
const WORDS: [&str; 64] = [
    "time", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state",
    "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company",
    "system", "program", "question", "work", "name", "number", "night", "point", "home", "water", "room",
    "mother", "area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job",
    "word", "business", "issue", "side", "kind", "head", "house", "service", "friend", "father", "power",
    "hour", "game", "line", "end", "member", "law", "car",
];

/// So many words spell a number, in base 64.
const DIGITS: u32 = 6;

impl Prompts {
    /// About 40 tokens with a template's own, of which no two prompts have many in common.
    pub const SHORT: Self = Self { words: 24, shared: 0, first: 0, common: 0, edit: false };

    /// The messages of the prompt at `place`.
    pub fn messages(&self, place: u32) -> Vec<Message> {
        let common = words(self.common, self.shared);
        let own = words(self.first.wrapping_add(place), self.words);
        if self.edit {
            let text = format!("Write this text again, but with 'boat' in place of 'ferry':\n\n{TEXT}");
            return vec![Message::system(own.join(" ")), Message::user(text)];
        }
        // In the system message, since templates put one of their own, the same for all, before a chat that has none.
        let text = common.into_iter().chain(own).collect::<Vec<_>>().join(" ");
        vec![Message::system(text), Message::user("Go on.")]
    }
}

/// `count` words of a number.
pub(crate) fn words(number: u32, count: u32) -> Vec<&'static str> {
    let mut random = fastrand::Rng::with_seed(number.into());
    let word = |place: u32| match place {
        // The lowest digits come first, because numbers are used one after the other.
        ..DIGITS => WORDS[(number >> (6 * place)) as usize % WORDS.len()],
        _ => WORDS[random.usize(..WORDS.len())],
    };
    (0..count).map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(prompts: Prompts, place: u32) -> Vec<String> {
        prompts.messages(place)[0].content.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn prompts_have_their_length_and_differ_from_the_beginning() {
        let texts: Vec<_> = (0..1000).map(|place| text(Prompts::SHORT, place)).collect();
        assert!(texts.iter().all(|words| words.len() == 24));
        let beginnings: std::collections::BTreeSet<_> = texts.iter().map(|words| &words[..2]).collect();
        assert_eq!(beginnings.len(), texts.len());
        assert_eq!(text(Prompts::SHORT, 7), texts[7]);
        assert_eq!(text(Prompts { first: 5, ..Prompts::SHORT }, 2), texts[7]);
    }

    #[test]
    fn what_is_shared_comes_first_and_depends_on_its_own_number() {
        let prompts = Prompts { shared: 40, common: 9, ..Prompts::SHORT };
        let (one, another) = (text(prompts, 0), text(prompts, 1));
        assert_eq!((one.len(), &one[..40]), (64, &another[..40]));
        assert_ne!(one[40], another[40]);
        assert_ne!(text(Prompts { common: 10, ..prompts }, 0)[0], one[0]);
    }
}
