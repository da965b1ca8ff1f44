# Every target sets up its own environment in .venv, and again only when a requirements file changes.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
EXPORT_READY := .venv/.export_ready
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# A thread that waits for the others gives its core away soon: launch/job/threads.py.
export GOMP_SPINCOUNT ?= 10000

# What make demo searches the held-out news for, in words that no title repeats.
DEMO_QUERIES := 居民楼夜里失火 明天大风降温 酒后开车被判刑 高速公路上发生车祸 考古发现古代墓葬

.PHONY: venv demo nlpcc check test test-slow lint bench

venv: $(READY)

$(READY): requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# What launch/export.py and its tests need
$(EXPORT_READY): requirements-export.txt $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-export.txt
	touch $@

demo: venv
	$(BIN)/python -m launch.demo.parts --output demo
	$(BIN)/python launch/build_corpus.py --config configs/corpus/demo.json
	$(BIN)/python launch/build_corpus.py --config configs/corpus/demo_heldout.json
	$(BIN)/python -m launch.demo.config --config configs/demo.json --output demo/config.json
	$(BIN)/deepspeed --num_gpus 1 launch/gd.py --config demo/config.json --run demo/run
	rm -rf demo/students
	$(BIN)/python launch/publish.py --run demo/run --student 4l384d --output demo/students/4l384d \
		--teacher-name "multilingual-e5-small in 4 bits"
	$(BIN)/python launch/report.py --run demo/run --task configs/tasks/inews.json --documents demo/text/heldout.jsonl \
		--queries $(DEMO_QUERIES) --heldout demo/heldout --output demo/report.html \
		--models teacher=demo/teacher student=demo/students/4l384d untrained=demo/run/start/4l384d

# The light-model task of NLPCC 2020: make nlpcc STUDENT=students/4l312d DATA=data/clue [TEACHER=..] [GED=..] [RUN=..] [SET=..]
nlpcc: venv
	$(BIN)/python -m launch.prediction.suite_run --suite nlpcc2020 --student $(STUDENT) --data $(or $(DATA),data/clue) \
		--output $(or $(RUN),runs/nlpcc2020) $(if $(TEACHER),--teacher $(TEACHER)) $(if $(GED),--ged $(GED)) \
		$(if $(SET),--set $(SET))

check: lint $(EXPORT_READY)
	$(BIN)/python -m pytest -n 2 -m "not slow and not job"

test: venv $(EXPORT_READY)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: venv $(EXPORT_READY)
	$(BIN)/python -m pytest -n 1 -m slow -o faulthandler_timeout=3600

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv
	$(BIN)/python bench/attention.py
	$(BIN)/python bench/relations.py
	$(BIN)/python bench/family.py
