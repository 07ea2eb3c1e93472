# raymeta's image for clusters: docker build --target cpu -t registry.example.com/raymeta:0.1.0-cpu .
# and likewise `gpu`. All that runs is pinned, and runs as the user `ray`, which is not root.
ARG RAY=2.60.0

FROM rayproject/ray:${RAY}-py311-cpu AS cpu
USER ray
# Who makes the folder owns it, and pip writes in it.
RUN mkdir /home/ray/raymeta
WORKDIR /home/ray/raymeta
COPY --chown=ray requirements.txt requirements-cluster.txt ./
# torch's build for CPUs, 200 MB in place of 3 GB; it counts as the pinned version.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    "torch==2.13.0+cpu" -r requirements-cluster.txt
COPY --chown=ray pyproject.toml README.md LICENSE ./
COPY --chown=ray jobs jobs
COPY --chown=ray raymeta raymeta
RUN pip install --no-cache-dir --no-deps .

FROM rayproject/ray:${RAY}-py311-gpu AS gpu
USER ray
# Who makes the folder owns it, and pip writes in it.
RUN mkdir /home/ray/raymeta
WORKDIR /home/ray/raymeta
COPY --chown=ray requirements.txt requirements-cluster.txt ./
RUN pip install --no-cache-dir -r requirements-cluster.txt
COPY --chown=ray pyproject.toml README.md LICENSE ./
COPY --chown=ray jobs jobs
COPY --chown=ray raymeta raymeta
RUN pip install --no-cache-dir --no-deps .
