<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model\Data;

use Magento\Framework\Api\AbstractSimpleObject;
use Tocsin\BreachNotification\Api\Data\RefusedRecordInterface;

/**
 * @inheritDoc
 */
class RefusedRecord extends AbstractSimpleObject implements RefusedRecordInterface
{
    /**
     * @inheritDoc
     */
    public function getPosition()
    {
        return (int)$this->_get('position');
    }

    /**
     * @inheritDoc
     */
    public function setPosition($position)
    {
        return $this->setData('position', $position);
    }

    /**
     * @inheritDoc
     */
    public function getRecordId()
    {
        return $this->_get('record_id');
    }

    /**
     * @inheritDoc
     */
    public function setRecordId($recordId)
    {
        return $this->setData('record_id', $recordId);
    }

    /**
     * @inheritDoc
     */
    public function getErrors()
    {
        return $this->_get('errors') ?? [];
    }

    /**
     * @inheritDoc
     */
    public function setErrors($errors)
    {
        return $this->setData('errors', $errors);
    }
}
