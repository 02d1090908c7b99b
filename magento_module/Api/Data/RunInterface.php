<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Api\Data;

/**
 * The run of a model that a save comes from.
 *
 * @api
 */
interface RunInterface
{
    /**
     * Name of the run
     *
     * @return string
     */
    public function getRunId();

    /**
     * @param string $runId
     * @return $this
     */
    public function setRunId($runId);

    /**
     * Version of the model; null: the one that the store has configured
     *
     * @return string|null
     */
    public function getModelVersion();

    /**
     * @param string|null $modelVersion
     * @return $this
     */
    public function setModelVersion($modelVersion);

    /**
     * Version of the data that the model was trained on
     *
     * @return string|null
     */
    public function getDatasetVersion();

    /**
     * @param string|null $datasetVersion
     * @return $this
     */
    public function setDatasetVersion($datasetVersion);

    /**
     * Which attributes of the request the run wrote; empty: all that are configured as AI-written
     *
     * @return string[]
     */
    public function getAttributes();

    /**
     * @param string[] $attributes
     * @return $this
     */
    public function setAttributes($attributes);
}
