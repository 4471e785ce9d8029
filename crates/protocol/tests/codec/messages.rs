//! Any message.

use proptest::{collection::vec, option, prelude::*};
use protocol::{ids::RequestId, message::*};

fn text() -> impl Strategy<Value = String> + Clone {
    ".{0,20}"
}

fn id() -> impl Strategy<Value = RequestId> + Clone {
    any::<u64>().prop_map(RequestId)
}

fn tokens() -> impl Strategy<Value = Vec<u32>> + Clone {
    vec(any::<u32>(), 0..20)
}

prop_compose! {
    fn chat_message()(
        (role, content, name) in (text(), text(), option::of(text())),
        (reasoning, tool_call_id) in (option::of(text()), option::of(text())),
        calls in vec((text(), text(), text()), 0..3),
    ) -> ChatMessage {
        let call = |(id, name, arguments)| ToolCall { id, name, arguments };
        let tool_calls = calls.into_iter().map(call).collect();
        ChatMessage { role, content, name, reasoning, tool_calls, tool_call_id }
    }
}

fn prompt() -> impl Strategy<Value = Prompt> {
    prop_oneof![
        vec(chat_message(), 0..4).prop_map(Prompt::Chat),
        text().prop_map(Prompt::Text),
        tokens().prop_map(Prompt::Tokens),
    ]
}

prop_compose! {
    fn sampling()(
        floats in [-1e9..1e9f32, 0.0..1f32, 0.0..1f32, 0.0..1f32, 0.0..9f32, -2.0..2f32, -2.0..2f32],
        top_k in any::<u32>(),
        logit_bias in vec((any::<u32>(), -100.0..100f32), 0..4),
        (seed, logprobs) in (any::<u64>(), option::of(any::<u8>())),
    ) -> Sampling {
        let [temperature, top_p, min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty] = floats;
        Sampling {
            temperature, top_p, top_k, min_p, typical_p, repetition_penalty, presence_penalty, frequency_penalty,
            logit_bias, seed, logprobs,
        }
    }
}

prop_compose! {
    fn trace_context()(
        trace_id in any::<[u8; 16]>(),
        span_id in any::<[u8; 8]>(),
        sampled in any::<bool>(),
    ) -> TraceContext {
        TraceContext { trace_id, span_id, sampled }
    }
}

fn constraint() -> impl Strategy<Value = Constraint> {
    let kind = prop_oneof![
        Just(ConstraintKind::JsonObject),
        text().prop_map(ConstraintKind::JsonSchema),
        text().prop_map(ConstraintKind::Regex),
        vec(text(), 0..4).prop_map(ConstraintKind::Choice),
        text().prop_map(ConstraintKind::Grammar),
    ];
    (kind, text()).prop_map(|(kind, param)| Constraint { kind, param })
}

prop_compose! {
    fn generate()(
        id in id(),
        prompt in prompt(),
        adapter in option::of((text(), text())),
        sampling in sampling(),
        (max_tokens, min_tokens) in (option::of(any::<u32>()), any::<u32>()),
        (stop, stop_tokens, include_stop) in (vec(text(), 0..3), tokens(), any::<bool>()),
        resume in tokens(),
        (ignore_eos, output, tools) in (any::<bool>(), option::of(constraint()), option::of(text())),
        credit in any::<u32>(),
        trace in option::of(trace_context()),
        (correlation_id, arrived_micros) in (option::of(text()), any::<u64>()),
    ) -> Generate {
        let adapter = adapter.map(|(name, digest)| AdapterRef { name, digest });
        Generate {
            id, prompt, adapter, sampling, max_tokens, min_tokens, stop, stop_tokens, include_stop, resume, ignore_eos, output,
            tools, credit, trace, correlation_id, arrived_micros,
        }
    }
}

fn output_part() -> impl Strategy<Value = OutputPart> {
    prop_oneof![
        text().prop_map(OutputPart::Text),
        text().prop_map(OutputPart::Reasoning),
        (any::<u32>(), text()).prop_map(|(index, name)| OutputPart::CallStart { index, name }),
        (any::<u32>(), text()).prop_map(|(index, json)| OutputPart::CallArguments { index, json }),
    ]
}

fn embed_input() -> impl Strategy<Value = EmbedInput> {
    let truncate = prop_oneof![
        Just(Truncation::Refuse),
        Just(Truncation::ToModel),
        any::<u32>().prop_map(Truncation::To),
    ];
    (vec(prompt(), 0..4), any::<u32>(), truncate, option::of(any::<u32>()))
        .prop_map(|(inputs, first, truncate, dimensions)| EmbedInput { inputs, first, truncate, dimensions })
}

fn operation() -> impl Strategy<Value = Operation> {
    let input = || {
        (prompt(), any::<bool>(), any::<bool>()).prop_map(
            |(prompt, add_special_tokens, add_generation_prompt)| TokenizeInput {
                prompt,
                add_special_tokens,
                add_generation_prompt,
            },
        )
    };
    let kind = prop_oneof![
        input().prop_map(OperationKind::Tokenize),
        input().prop_map(OperationKind::Count),
        (tokens(), any::<bool>()).prop_map(|(tokens, skip_special_tokens)| OperationKind::Detokenize {
            tokens,
            skip_special_tokens
        }),
        (vec(chat_message(), 0..4), any::<bool>()).prop_map(|(messages, add_generation_prompt)| {
            OperationKind::Render { messages, add_generation_prompt }
        }),
        text().prop_map(|draft| OperationKind::CheckDraft { draft }),
        (input(), prop::sample::select(vec![PieceForm::Vocabulary, PieceForm::Bytes]))
            .prop_map(|(input, form)| OperationKind::Pieces { input, form }),
        embed_input().prop_map(OperationKind::Embed),
    ];
    (id(), kind).prop_map(|(id, kind)| Operation { id, kind })
}

pub(crate) fn batch() -> impl Strategy<Value = Batch> {
    let submission = prop_oneof![
        generate().prop_map(|generate| Submission::Generate(Box::new(generate))),
        id().prop_map(Submission::Cancel),
        (id(), any::<u32>()).prop_map(|(id, chunks)| Submission::Credit { id, chunks }),
        operation().prop_map(|operation| Submission::Operation(Box::new(operation))),
        Just(Submission::Drain),
    ];
    vec(submission, 0..6).prop_map(|submissions| Batch { submissions })
}

fn failure() -> impl Strategy<Value = Failure> {
    let kind = prop::sample::select(vec![
        FailureKind::InvalidRequest,
        FailureKind::ContextLengthExceeded,
        FailureKind::Internal,
        FailureKind::WorkerLost,
    ]);
    (kind, option::of(text()), text()).prop_map(|(kind, param, message)| Failure { kind, param, message })
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        tokens().prop_map(Answer::Tokens),
        any::<u64>().prop_map(Answer::Count),
        text().prop_map(Answer::Text),
        (any::<bool>(), option::of(text()), any::<[u32; 2]>()).prop_map(
            |(compatible, reason, [vocab_size, draft_vocab_size])| Answer::DraftCheck {
                compatible,
                reason,
                vocab_size,
                draft_vocab_size,
            }
        ),
        vec((any::<u32>(), vec(any::<u8>(), 0..5)), 0..5).prop_map(|all| {
            let mut pieces = Pieces::default();
            all.iter().for_each(|(token, bytes)| pieces.push(*token, bytes));
            Answer::Pieces(pieces)
        }),
        vec((any::<u32>(), -1.0..1f32), 0..5).prop_map(|all| {
            let mut embeddings = Embeddings::default();
            all.iter().for_each(|(tokens, value)| embeddings.push(*tokens, &[*value, 0.5]));
            Answer::Embeddings(embeddings)
        }),
    ]
}

fn logprob() -> impl Strategy<Value = TokenLogprob> {
    (any::<u32>(), -99.0..0f32, any::<bool>(), vec(any::<u8>(), 0..5))
        .prop_map(|(token, logprob, special, bytes)| TokenLogprob { token, logprob, special, bytes })
}

fn logprobs() -> impl Strategy<Value = TokenLogprobs> {
    (logprob(), vec(logprob(), 0..3)).prop_map(|(chosen, top)| TokenLogprobs { chosen, top })
}

fn event() -> impl Strategy<Value = StreamEvent> {
    let reason = prop::sample::select(vec![FinishReason::Stop, FinishReason::Length]);
    let usage = any::<[u32; 5]>().prop_map(
        |[prompt_tokens, completion_tokens, cached_tokens, drafted_tokens, accepted_tokens]| Usage {
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            drafted_tokens,
            accepted_tokens,
        },
    );
    let kind = prop_oneof![
        any::<u32>().prop_map(|prompt_tokens| StreamEventKind::Prepared { prompt_tokens }),
        any::<u32>().prop_map(|cached_tokens| StreamEventKind::Started { cached_tokens }),
        (any::<u32>(), tokens(), text(), vec(output_part(), 0..3), vec(logprobs(), 0..3)).prop_map(
            |(first_token, tokens, text, parts, logprobs)| {
                StreamEventKind::Delta(Delta {
                    first_token,
                    tokens: tokens.into(),
                    text: text.into(),
                    parts,
                    logprobs,
                })
            }
        ),
        answer().prop_map(StreamEventKind::Answered),
        (reason, usage).prop_map(|(reason, usage)| StreamEventKind::Finished { reason, usage }),
        failure().prop_map(StreamEventKind::Failed),
    ];
    (id(), kind).prop_map(|(id, kind)| StreamEvent { id, kind })
}

pub(crate) fn report() -> impl Strategy<Value = Report> {
    let names = ([text(), text(), text()], option::of(text()));
    let info = (names, any::<[u32; 2]>(), any::<[u64; 5]>(), option::of(any::<u32>())).prop_map(
        |(
            ([name, digest, architecture], draft_model),
            [context_length, vocab_size],
            [weight_bytes, load_micros, tokenizer_micros, kv_bytes, other_bytes],
            embedding_size,
        )| {
            ModelInfo {
                name,
                digest,
                architecture,
                context_length,
                vocab_size,
                weight_bytes,
                load_micros,
                tokenizer_micros,
                kv_bytes,
                other_bytes,
                draft_model,
                embedding_size,
            }
        },
    );
    let step_time = any::<[u64; 6]>().prop_map(
        |[schedule_micros, build_micros, evaluate_micros, sample_micros, emit_micros, idle_micros]| {
            StepTime {
                schedule_micros,
                build_micros,
                evaluate_micros,
                sample_micros,
                emit_micros,
                idle_micros,
            }
        },
    );
    let disk = any::<[u64; 3]>().prop_map(|[reads, tokens, bytes]| DiskPrefixes { reads, tokens, bytes });
    let numbers = (any::<[u64; 6]>(), any::<[u64; 6]>(), any::<[u32; 3]>());
    let heartbeat = (numbers, option::of(any::<u64>()), step_time, disk).prop_map(
        |(
            (
                [step, oldest_preparation_millis, kv_tokens, kv_capacity, memory_bytes, preemptions],
                [weights, kv, kv_limit, kept_prefixes, mlx_active, mlx_cache],
                [runnable, paused, waiting],
            ),
            progress,
            time,
            disk,
        )| {
            Heartbeat {
                step,
                runnable,
                paused,
                waiting,
                oldest_preparation_millis,
                kv_tokens,
                kv_capacity,
                progress,
                memory_bytes,
                memory: WorkerMemory { weights, kv, kv_limit, kept_prefixes, mlx_active, mlx_cache },
                time,
                preemptions,
                disk,
            }
        },
    );
    prop_oneof![
        info.prop_map(Report::Ready),
        failure().prop_map(Report::LoadFailed),
        heartbeat.prop_map(Report::Heartbeat),
        vec(event(), 0..6).prop_map(Report::Events),
        Just(Report::Drained),
    ]
}
