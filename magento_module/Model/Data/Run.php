<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Data;

use Magento\Framework\Api\AbstractSimpleObject;
use Tocsin\BreachNotification\Api\Data\RunInterface;

/**
 * @inheritDoc
 */
class Run extends AbstractSimpleObject implements RunInterface
{
    /**
     * @inheritDoc
     */
    public function getRunId()
    {
        return (string)$this->_get('run_id');
    }

    /**
     * @inheritDoc
     */
    public function setRunId($runId)
    {
        return $this->setData('run_id', $runId);
    }

    /**
     * @inheritDoc
     */
    public function getModelVersion()
    {
        return $this->_get('model_version');
    }

    /**
     * @inheritDoc
     */
    public function setModelVersion($modelVersion)
    {
        return $this->setData('model_version', $modelVersion);
    }

    /**
     * @inheritDoc
     */
    public function getDatasetVersion()
    {
        return $this->_get('dataset_version');
    }

    /**
     * @inheritDoc
     */
    public function setDatasetVersion($datasetVersion)
    {
        return $this->setData('dataset_version', $datasetVersion);
    }

    /**
     * @inheritDoc
     */
    public function getAttributes()
    {
        return $this->_get('attributes') ?? [];
    }

    /**
     * @inheritDoc
     */
    public function setAttributes($attributes)
    {
        return $this->setData('attributes', $attributes);
    }
}
