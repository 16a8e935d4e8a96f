# Two commands do all the set-up; on Windows without make, type what stands behind them.
PYTHON ?= python3

lab:  ## open the course in JupyterLab; ARGS="--port 8899 --no-browser" go to JupyterLab
	@$(PYTHON) course.py lab $(ARGS)

test:  ## pass every test; ARGS="-k recording" go to pytest
	@$(PYTHON) course.py test $(ARGS)

.PHONY: lab test
