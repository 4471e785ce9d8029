//! A request for text, whichever dialect it came in.

pub use protocol::message::{
    ChatMessage, Constraint, ConstraintKind, Prompt, Sampling, ToolCall, TraceContext,
};
use std::time::Instant;

use protocol::{
    ids::RequestId,
    message::{AdapterRef, Generate},
};

use super::{caller::Caller, priority::Priority};

/// A request that can be served if its model is loaded and a place is free. All values are within their ranges.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// The model's name or digest, as the client wrote it.
    pub model: String,
    /// With what its model computes it. Not for a dialect to say: it follows from the model's name.
    pub adapter: Option<AdapterRef>,
    /// What to continue.
    pub prompt: Prompt,
    /// How each token is chosen.
    pub sampling: Sampling,
    /// Most tokens to generate; `None` leaves only the model's context as the limit.
    pub max_tokens: Option<u32>,
    /// Before as many tokens nothing but these limits ends the output.
    pub min_tokens: u32,
    /// Texts that end the generation; they are not part of its output, unless `include_stop` says so.
    pub stop: Vec<String>,
    /// Tokens that end the generation, in addition to the model's own; likewise.
    pub stop_tokens: Vec<u32>,
    /// What ends the generation is part of its output.
    pub include_stop: bool,
    /// Generate past the model's end-of-sequence tokens.
    pub ignore_eos: bool,
    /// What the output has to be; `None` is any text.
    pub output: Option<Constraint>,
    /// The tools that a chat's answer may call: a list in JSON.
    pub tools: Option<String>,
    /// Who sent it.
    pub caller: Caller,
    /// How urgent it is.
    pub priority: Priority,
    /// When it has to be answered: later it is refused, or ends with an error.
    pub deadline: Option<Instant>,
    /// By what logs and traces know it.
    pub correlation: Correlation,
}

/// By what logs and traces know a request, here and in its worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Correlation {
    /// Its `x-request-id`.
    pub request_id: Option<String>,
    /// The span under which the worker's spans belong, if somebody traces it.
    pub trace: Option<TraceContext>,
}

impl GenerateRequest {
    /// The same for the choice with this index, which has a seed of its own: what a client asks for with that seed alone.
    pub(super) fn choice(&self, index: u64) -> Self {
        let mut choice = self.clone();
        choice.sampling.seed = choice.sampling.seed.wrapping_add(index);
        choice
    }

    /// The message for a worker, which continues behind the tokens `resume`. `credit` is the number of chunks that it may
    /// send before any was read, and `arrived_micros` says when the request came.
    pub(super) fn message(
        &self,
        id: RequestId,
        credit: u32,
        resume: &[u32],
        arrived_micros: u64,
    ) -> Generate {
        let Self {
            adapter,
            prompt,
            sampling,
            max_tokens,
            min_tokens,
            stop,
            stop_tokens,
            include_stop,
            ignore_eos,
            output,
            tools,
            correlation,
            ..
        } = self.clone();
        let Correlation { request_id: correlation_id, trace } = correlation;
        let resume = resume.to_vec();
        Generate {
            id,
            prompt,
            adapter,
            sampling,
            max_tokens,
            min_tokens,
            stop,
            stop_tokens,
            include_stop,
            resume,
            ignore_eos,
            output,
            tools,
            credit,
            trace,
            correlation_id,
            arrived_micros,
        }
    }

    /// Approximately the memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        let prompt = match &self.prompt {
            Prompt::Text(text) => text.capacity(),
            Prompt::Tokens(ids) => ids.capacity() * size_of::<u32>(),
            Prompt::Chat(messages) => {
                let inner = |it: &ChatMessage| {
                    it.texts().map(String::capacity).sum::<usize>() + size_of_val(it.tool_calls.as_slice())
                };
                messages.iter().map(inner).sum::<usize>() + size_of_val(messages.as_slice())
            }
        };
        let output = self.output.as_ref().map_or(0, |output| output.bytes() + output.param.capacity());
        let tools = self.tools.as_ref().map_or(0, String::capacity);
        let stop: usize = self.stop.iter().map(|stop| stop.capacity() + size_of::<String>()).sum();
        size_of::<Self>()
            + self.model.capacity()
            + prompt
            + stop
            + size_of_val(self.stop_tokens.as_slice())
            + output
            + tools
            + size_of_val(self.sampling.logit_bias.as_slice())
    }
}

/// A request for the text that follows an empty one.
#[cfg(test)]
pub(crate) fn plain(model: &str) -> GenerateRequest {
    GenerateRequest {
        model: model.into(),
        adapter: None,
        prompt: Prompt::Text(String::new()),
        sampling: Sampling::default(),
        max_tokens: None,
        min_tokens: 0,
        stop: Vec::new(),
        stop_tokens: Vec::new(),
        include_stop: false,
        ignore_eos: false,
        output: None,
        tools: None,
        caller: Caller::default(),
        priority: Priority::default(),
        deadline: None,
        correlation: Correlation::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_reaches_the_worker() {
        let message = ChatMessage::new("user", "hi");
        let trace = TraceContext { trace_id: [1; 16], span_id: [2; 8], sampled: true };
        let regex = Constraint { kind: ConstraintKind::Regex("a+".into()), param: "guided_regex".into() };
        let adapter = Some(AdapterRef { name: "m:a".into(), digest: "d".into() });
        let request = GenerateRequest {
            adapter: adapter.clone(),
            prompt: Prompt::Chat(vec![message]),
            sampling: Sampling { temperature: 0.5, seed: 5, ..Sampling::default() },
            max_tokens: Some(7),
            min_tokens: 3,
            stop: vec!["a".into(), "b".into()],
            stop_tokens: vec![8, 9],
            include_stop: true,
            ignore_eos: true,
            output: Some(regex.clone()),
            tools: Some("[]".into()),
            correlation: Correlation { request_id: Some("r1".into()), trace: Some(trace) },
            ..plain("m")
        };
        let sent = request.message(RequestId(4), 64, &[1, 2], 7);
        let GenerateRequest { prompt, sampling, max_tokens, stop, ignore_eos, .. } = request;
        let expected = Generate {
            id: RequestId(4),
            prompt,
            adapter,
            sampling,
            max_tokens,
            min_tokens: 3,
            stop,
            stop_tokens: vec![8, 9],
            include_stop: true,
            resume: vec![1, 2],
            ignore_eos,
            output: Some(regex),
            tools: Some("[]".into()),
            credit: 64,
            trace: Some(trace),
            correlation_id: Some("r1".into()),
            arrived_micros: 7,
        };
        assert_eq!(sent, expected);
    }

    #[test]
    fn a_request_takes_at_least_the_bytes_of_its_texts() {
        let long = "x".repeat(1000);
        let with = |prompt, stop: &[&String]| GenerateRequest {
            prompt,
            stop: stop.iter().map(|it| (*it).clone()).collect(),
            ..plain("m")
        };
        let output = Some(Constraint { kind: ConstraintKind::Regex(long.clone()), param: String::new() });
        let empty = with(Prompt::Text(String::new()), &[]).bytes();
        let message = ChatMessage { name: Some(long.clone()), ..ChatMessage::new("user", long.clone()) };
        for (request, more) in [
            (with(Prompt::Text(long.clone()), &[]), 1000),
            (with(Prompt::Tokens(vec![0; 1000]), &[]), 4000),
            (with(Prompt::Chat(vec![message]), &[]), 2000),
            (with(Prompt::Text(String::new()), &[&long, &long]), 2000),
            (GenerateRequest { output, ..plain("m") }, 1000),
            (GenerateRequest { tools: Some(long.clone()), ..plain("m") }, 1000),
        ] {
            let bytes = request.bytes() - empty;
            assert!((more..more + 200).contains(&bytes), "{bytes} for {more}");
        }
    }
}
