"""Files of requests: OpenAI's batch format in, a line of JSON out for every line, however often it is interrupted.

Must not know of command lines, nor of who answers: a line goes to an `Answer`, which is the road of every request.
"""

from candle_vllm.batch.answer import Answer, Answered, Answering, UnansweredError
from candle_vllm.batch.journal import Journal, JournalError
from candle_vllm.batch.run import Tally, run_batch

__all__ = ["Answer", "Answered", "Answering", "Journal", "JournalError", "Tally", "UnansweredError", "run_batch"]
