# Every verb works on a fresh clone: the first one makes .venv and installs into it, once.
PYTHON ?= python3
RECIPE ?= sentiment_bert
FRAMEWORK ?= torch
ATTENTION ?= stock
ARCHITECTURE ?= stock
SEED ?= 0
FRAMEWORKS ?= torch tensorflow
ATTENTIONS ?= stock handwritten
SEEDS ?= 0 1 2
STEPS ?= 50
DROPOUT ?= on
CONTROL ?= on
KILLS ?= 5
PROCESSES ?= 1
RESTARTS ?= 0
TRIALS ?= 20
WORKERS ?= 1
SPACE ?=
SET ?=
OUT ?=
RUN ?=
EXPORT ?=
FORMAT ?= onnx
REPO ?=
FILE ?=
REPORT ?=
QUANTIZE ?=
RUNS ?=
TEXT ?=
INPUT ?=
DATA ?=
PORT ?= 8000
HOST ?= 127.0.0.1
# Some shells set HOST to the name of the machine, under which others reach it.
ifeq ($(origin HOST),environment)
  HOST = 127.0.0.1
endif
BATCH ?= 32
QUEUE ?= 1024
DEADLINE ?= 30
REPEATS ?= 3
ROWS ?= 8192
ONLY ?=
CONTESTANTS ?=
QUICK ?=
HEAVY ?=
COMPILED ?=
STACK ?=
# Which of those that have a default here were given.
WITH_OWN_DEFAULTS := FRAMEWORK ARCHITECTURE FORMAT REPEATS ROWS PROCESSES RESTARTS
GIVEN := $(foreach name,$(WITH_OWN_DEFAULTS),$(if $(filter file,$(origin $(name))),,$(name)))
# A value is a text, whatever it holds: make expands no dollar sign in it, and the shell reads it from the environment,
# as "$$RECIPE", so that no quotation mark, space or semicolon in it is one of the command.
TEXTS := PYTHON RECIPE FRAMEWORK ATTENTION ARCHITECTURE SEED FRAMEWORKS ATTENTIONS SEEDS STEPS DROPOUT CONTROL KILLS PROCESSES RESTARTS TRIALS WORKERS SPACE SET OUT RUN EXPORT FORMAT REPO REPORT FILE QUANTIZE RUNS TEXT \
  INPUT DATA PORT HOST BATCH QUEUE DEADLINE REPEATS ROWS ONLY CONTESTANTS STACK
SWITCHES := OVERWRITE RESUME CHANGE_PROCESSES RERUN SKIP_BAD PRIVATE CROSS QUICK HEAVY COMPILED DEBUG DEBUG_EAGER ALLOW_HUB_CODE ALLOW_PICKLE
$(foreach name,$(TEXTS) $(SWITCHES),$(eval override $(name) := $$(value $(name))))
export $(TEXTS)

# With STACK=split each framework has an environment of its own, and PyTorch a newer transformers.
ifneq ($(filter-out split,$(STACK)),)
  $(error STACK is "$(STACK)", but must be split, or not given)
endif
VENV := .venv$(if $(STACK),-torch)
ifdef STACK
  export TWINSTEP_PYTHON_TORCH := $(abspath .venv-torch/bin/python)
  export TWINSTEP_PYTHON_TENSORFLOW := $(abspath .venv-tensorflow/bin/python)
endif
PIPELINE := "$(VENV)/bin/python" -m pipeline
# The words of SET and of RUNS become the arguments "$$@" of the shell.
SETTINGS = set -f; set --; for each in $$SET; do set -- "$$@" --set "$$each"; done;
ASKED = $(if $(EXPORT),"$$EXPORT","$$RUN")
RUN_FOLDERS = set -f; set -- $$RUNS;
TO = $(if $(OUT),--out "$$OUT")
REPLACE = $(if $(OVERWRITE),--overwrite)
CODE = $(if $(ALLOW_HUB_CODE),--allow-hub-code) $(if $(ALLOW_PICKLE),--allow-pickle)
OWN_FRAMEWORK = $(if $(filter FRAMEWORK,$(GIVEN)),--framework "$$FRAMEWORK")
MODEL = --attention "$$ATTENTION" $(if $(filter ARCHITECTURE,$(GIVEN)),--architecture "$$ARCHITECTURE")
RANKS = $(if $(filter PROCESSES,$(GIVEN)),--processes "$$PROCESSES")
VERBOSE = $(if $(DEBUG),--debug)

.DEFAULT_GOAL := help
.PHONY: help init finetune watch compare sweep report index tour check list schema clean-cache kill-test lockstep predict export deployment push attention-maps serve bundled test lint bench gpu-check
.PHONY: gallery drill attention embedded

help:  ## show this list
	@awk -F ':|  ## | \\| ' '/^[a-z-]+:.*  ## / {printf "%-16s%-52s%s\n", $$1, $$3, $$4}' $(MAKEFILE_LIST)

# Runs a shell script while no other make does. The system's lock on pyproject.toml ends with the processes that have it.
ALONE := import fcntl, os, sys; lock = os.open("pyproject.toml", os.O_RDONLY); os.set_inheritable(lock, True); \
  fcntl.flock(lock, fcntl.LOCK_EX); os.execvp("sh", ["sh", "-ec", sys.argv[1]])

# What each environment has; .venv-torch has other versions of the packages that constraints-torch.txt names.
EXTRAS_OF_.venv := all,dev,peft
EXTRAS_OF_.venv-torch := torch,onnx,serve,tensorboard,sweep,dev,peft
EXTRAS_OF_.venv-tensorflow := tensorflow,litert,serve,tensorboard,sweep,dev
NEWER = $(filter .venv-torch,$(@D))
NEWER_PACKAGES := huggingface_hub|tokenizers|transformers
.venv-torch/.installed: .venv-tensorflow/.installed constraints-torch.txt

# A half-finished install leaves no stamp, so the next verb starts it again.
.venv/.installed .venv-torch/.installed .venv-tensorflow/.installed: pyproject.toml constraints.txt
	@"$$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "twinstep needs Python 3.11, 3.12 or 3.13; name one with PYTHON=python3.11"; exit 2; }
	@echo "Installing into $(@D), once; this takes two or three minutes."
	@"$$PYTHON" -c '$(ALONE)' ' \
	  if test "$@" -nt pyproject.toml && test "$@" -nt constraints.txt $(if $(NEWER),&& test "$@" -nt constraints-torch.txt); then exit; fi; \
	  test -x "$(@D)/bin/python" || "$$PYTHON" -m venv "$(@D)"; \
	  grep -v "^[[:space:]]*#" constraints.txt $(if $(NEWER),| grep -vE "^($(NEWER_PACKAGES))==" | cat - constraints-torch.txt) > "$(@D)/constraints.txt"; \
	  "$(@D)/bin/python" -m pip install --quiet --disable-pip-version-check --use-pep517 -c "$(@D)/constraints.txt" -e ".[$(EXTRAS_OF_$(@D))]"; \
	  touch "$@"'

finetune: $(VENV)/.installed  ## fine-tune a recipe | RECIPE= FRAMEWORK=torch|tensorflow ATTENTION= ARCHITECTURE=handwritten SEED= SET="a.b=1 c=2" OUT= OVERWRITE=1 RESUME=1 PROCESSES=1 RESTARTS=0 CHANGE_PROCESSES=1 DEBUG_EAGER=1
	@$(SETTINGS) $(PIPELINE) finetune "$$RECIPE" --framework "$$FRAMEWORK" $(MODEL) --seed "$$SEED" $(TO) $(REPLACE) $(if $(RESUME),--resume) $(RANKS) $(if $(filter RESTARTS,$(GIVEN)),--restarts "$$RESTARTS") $(if $(CHANGE_PROCESSES),--change-processes) $(if $(DEBUG_EAGER),--debug-eager) $(CODE) "$$@" $(VERBOSE)

watch: $(VENV)/.installed  ## show the loss and scores of a run while it trains | RUN=runs/...
	@$(PIPELINE) watch "$$RUN" $(VERBOSE)

compare: $(VENV)/.installed  ## run every framework, attention and seed; compare | RECIPE= FRAMEWORKS= ATTENTIONS="stock handwritten handwritten-model" SEEDS="0 1 2" CONTROL=on|off SET= OUT= RERUN=1
	@$(SETTINGS) $(PIPELINE) compare "$$RECIPE" --frameworks "$$FRAMEWORKS" --attentions "$$ATTENTIONS" --seeds "$$SEEDS" --control "$$CONTROL" $(TO) $(if $(RERUN),--rerun) $(if $(ALLOW_HUB_CODE),--allow-hub-code) "$$@" $(VERBOSE)

sweep: $(VENV)/.installed  ## search for the values of keys that score best | RECIPE= SPACE="train.learning_rate=log(1e-5,1e-3) train.batch_size=16,32" TRIALS=20 WORKERS=1 FRAMEWORK= ATTENTION= ARCHITECTURE=handwritten SEED= SET= OUT=
	@$(SETTINGS) $(PIPELINE) sweep "$$RECIPE" --space "$$SPACE" --trials "$$TRIALS" --workers "$$WORKERS" --framework "$$FRAMEWORK" $(MODEL) --seed "$$SEED" $(TO) $(CODE) "$$@" $(VERBOSE)

report: $(VENV)/.installed  ## compare finished runs of any machine | RUNS="dir dir" OUT=
	@$(RUN_FOLDERS) $(PIPELINE) report "$$@" $(TO) $(VERBOSE)

index: $(VENV)/.installed  ## write one page over all reports | OUT=reports
	@$(PIPELINE) index $(if $(OUT),"$$OUT") $(VERBOSE)

tour: $(VENV)/.installed  ## measure what the frameworks differ in | OUT=reports/tour QUICK=1
	@$(PIPELINE) tour $(TO) $(if $(QUICK),--quick) $(VERBOSE)

check: $(VENV)/.installed  ## validate everything, and try the largest batch | RECIPE= FRAMEWORK= ATTENTION= ARCHITECTURE=handwritten SET=
	@$(SETTINGS) $(PIPELINE) check "$$RECIPE" --framework "$$FRAMEWORK" $(MODEL) $(CODE) "$$@" $(VERBOSE)

init: $(VENV)/.installed  ## look at a file of data and write a recipe for it | FILE=data.csv OUT= OVERWRITE=1
	@$(PIPELINE) init "$$FILE" $(TO) $(REPLACE) $(VERBOSE)

list: $(VENV)/.installed  ## show the recipes
	@$(PIPELINE) list $(VERBOSE)

schema: $(VENV)/.installed  ## print the JSON Schema of recipes for editors | OUT=file OVERWRITE=1
	@$(PIPELINE) schema $(TO) $(REPLACE) $(VERBOSE)

clean-cache: $(VENV)/.installed  ## remove the tokenized data kept for later runs
	@$(PIPELINE) clean-cache $(VERBOSE)

kill-test: $(VENV)/.installed  ## kill a run again and again, resume it, compare | RECIPE= FRAMEWORK= KILLS=5 PROCESSES=1 ATTENTION= ARCHITECTURE=handwritten SEED= SET=
	@$(SETTINGS) $(PIPELINE) kill-test "$$RECIPE" --framework "$$FRAMEWORK" --kills "$$KILLS" $(RANKS) $(MODEL) --seed "$$SEED" "$$@" $(VERBOSE)

lockstep: $(VENV)/.installed  ## take the same steps in both frameworks, compare | RECIPE= STEPS=50 DROPOUT=on|off PROCESSES="1 2 4" ATTENTION= ARCHITECTURE=handwritten SEED= SET=
	@$(SETTINGS) $(PIPELINE) lockstep "$$RECIPE" --steps "$$STEPS" --dropout "$$DROPOUT" $(RANKS) $(MODEL) --seed "$$SEED" "$$@" $(VERBOSE)

predict: $(VENV)/.installed  ## predict with a finished run or an export | RUN=runs/... or EXPORT=exports/... TEXT="..." or INPUT=file, - for standard input; FRAMEWORK= OUT= OVERWRITE=1 SKIP_BAD=1 SET=
	@$(SETTINGS) $(PIPELINE) predict $(ASKED) $(if $(TEXT),--text "$$TEXT") $(if $(INPUT),--input "$$INPUT") $(OWN_FRAMEWORK) $(TO) $(REPLACE) $(if $(SKIP_BAD),--skip-bad) "$$@" $(VERBOSE)

export: $(VENV)/.installed  ## convert a run for other runtimes, proved there | RUN=runs/... FORMAT="pt2 onnx savedmodel litert torchscript aoti" QUANTIZE=int8 OUT= OVERWRITE=1
	@$(PIPELINE) export "$$RUN" --format "$$FORMAT" $(if $(QUANTIZE),--quantize "$$QUANTIZE") $(TO) $(REPLACE) $(VERBOSE)

deployment: $(VENV)/.installed  ## measure a run in all formats, and as graphs | RUN=runs/... FORMAT="pt2 onnx savedmodel litert torchscript aoti" OUT= QUICK=1
	@$(PIPELINE) deployment "$$RUN" $(if $(filter FORMAT,$(GIVEN)),--format "$$FORMAT") $(TO) $(if $(QUICK),--quick) $(VERBOSE)

push: $(VENV)/.installed  ## upload a finished run's model to the Hub, with its card | RUN=runs/... REPO=user/name PRIVATE=1 REPORT=reports/... OVERWRITE=1
	@$(PIPELINE) push "$$RUN" --repo "$$REPO" $(if $(PRIVATE),--private) $(if $(REPORT),--report "$$REPORT") $(REPLACE) $(VERBOSE)

attention-maps: $(VENV)/.installed  ## draw the attention maps of a finished run | RUN=runs/... TEXT="..." CROSS=1 FRAMEWORK= OUT= OVERWRITE=1
	@$(PIPELINE) attention-maps "$$RUN" --text "$$TEXT" $(if $(CROSS),--cross) $(OWN_FRAMEWORK) $(TO) $(REPLACE) $(VERBOSE)

serve: $(VENV)/.installed  ## serve a finished run or an export over HTTP | RUN=runs/... or EXPORT=exports/... PORT=8000 HOST=127.0.0.1 FRAMEWORK= BATCH=32 QUEUE=1024 DEADLINE=30 SET=
	@$(SETTINGS) $(PIPELINE) serve $(ASKED) --port "$$PORT" --host "$$HOST" --batch "$$BATCH" --queue "$$QUEUE" --deadline "$$DEADLINE" $(OWN_FRAMEWORK) "$$@" $(VERBOSE)

bundled: $(VENV)/.installed  ## rebuild the bundled texts and pretrained checkpoints
	@for set in sentiment dates stories; do \
	  "$(VENV)/bin/python" -m recipes.bundled.$$set.grammar && "$(VENV)/bin/python" -m recipes.bundled.$$set.pretrain || exit; done
	@"$(VENV)/bin/python" -m recipes.bundled.translation.grammar && "$(VENV)/bin/python" -m recipes.bundled.translation.vocabulary

CHOSEN = $(if $(COMPILED),compiles,$(if $(HEAVY),heavy,$(if $(QUICK),not slow and )not heavy and not compiles))
PYTEST = env $(foreach name,$(WITH_OWN_DEFAULTS),-u $(name)) -u STACK "$(1)/bin/python" -m pytest $(2) -m "$(CHOSEN)"

# With STACK=split the tests of TensorFlow run also if one of PyTorch failed.
test: $(VENV)/.installed  ## run the tests | QUICK=1 leaves out the slow ones, HEAVY=1 runs those that convert models or shard weights, COMPILED=1 those that compile steps, STACK=split those of each framework in its environment
	@$(if $(STACK),code=0; $(call PYTEST,.venv-torch,--only torch) || code=$$?; \
	  $(call PYTEST,.venv-tensorflow,--only tensorflow) || code=$$?; exit $$code,$(call PYTEST,$(VENV)))

lint: $(VENV)/.installed  ## check style, imports and types
	@"$(VENV)/bin/ruff" check . && "$(VENV)/bin/ruff" format --check . && "$(VENV)/bin/basedpyright"

bench: $(VENV)/.installed  ## measure against Trainer and Keras' fit | DATA=folder REPEATS=3 ONLY="classification causal seq2seq" CONTESTANTS="..." ROWS=8192 QUICK=1 OUT=
	@"$(VENV)/bin/python" -m tests.benchmarks.bench --repeats "$$REPEATS" --rows "$$ROWS" $(if $(DATA),--data "$$DATA") $(if $(ONLY),--only "$$ONLY") $(if $(CONTESTANTS),--contestants "$$CONTESTANTS") $(if $(QUICK),--quick) $(TO)

gpu-check: $(VENV)/.installed  ## GPU beside processor: numbers, resuming, speed | DATA=folder REPEATS=1 ROWS=4096 QUICK=1 OUT=
	@"$(VENV)/bin/python" -m tests.benchmarks.gpu_check $(if $(filter REPEATS,$(GIVEN)),--repeats "$$REPEATS") $(if $(filter ROWS,$(GIVEN)),--rows "$$ROWS") $(if $(DATA),--data "$$DATA") $(if $(QUICK),--quick) $(TO)

# Names that verbs had before.
gallery: index  ## the former name of index
drill: kill-test  ## the former name of kill-test
attention: attention-maps  ## the former name of attention-maps
embedded: bundled  ## the former name of bundled
gallery drill attention embedded:
	@echo "$@ is now called $<" >&2
